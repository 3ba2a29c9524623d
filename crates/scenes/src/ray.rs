//! One ray over the map: what it meets first and how far away.

use crate::map::{Axis, Cell, Map, Point};

/// What a ray met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Distance in lengths of the ray's direction. For a direction of `ahead + s·right` with unit vectors this is the
    /// distance along `ahead`, which is what perspective asks for.
    pub distance: f64,
    /// The style of the wall or door.
    pub style: u8,
    /// Where on its width it was met, from 0 at the viewer's left to 1.
    pub along: f64,
    /// The axis that the face stands across.
    pub face: Axis,
}

/// Follows a ray from an open place until something stops it: a walk from cell border to cell border (Amanatides, Woo
/// 1987). The outside of a map is wall, so there is always an end.
pub fn cast(map: &Map, from: Point, ray: Point) -> Hit {
    let (mut x, mut y) = (from.x as i32, from.y as i32);
    let (step_x, delta_x, mut next_x) = axis(from.x - f64::from(x), ray.x);
    let (step_y, delta_y, mut next_y) = axis(from.y - f64::from(y), ray.y);
    loop {
        let (distance, face) = if next_x < next_y {
            let at = next_x;
            next_x += delta_x;
            x += step_x;
            (at, Axis::X)
        } else {
            let at = next_y;
            next_y += delta_y;
            y += step_y;
            (at, Axis::Y)
        };
        match map.at(x, y) {
            Cell::Floor | Cell::Door { open: true, .. } => {}
            Cell::Wall(style) => return hit(from, ray, distance, style, face),
            Cell::Door { style, through, .. } => {
                // The leaf stands in the middle of the cell; a ray that leaves the cell before it meets the jamb.
                let (leaf, leave) = match through {
                    Axis::X => ((f64::from(x) + 0.5 - from.x) / ray.x, next_x.min(next_y)),
                    Axis::Y => ((f64::from(y) + 0.5 - from.y) / ray.y, next_x.min(next_y)),
                };
                if leaf >= distance && leaf <= leave {
                    return hit(from, ray, leaf, style, through);
                }
            }
        }
    }
}

/// Direction of travel, distance between borders and distance to the first one, for one axis.
fn axis(inside: f64, ray: f64) -> (i32, f64, f64) {
    // A ray along the other axis never meets a border of this one; a large number does without infinities.
    let delta = if ray.abs() < 1e-12 { 1e12 } else { 1.0 / ray.abs() };
    if ray < 0.0 { (-1, delta, inside * delta) } else { (1, delta, (1.0 - inside) * delta) }
}

fn hit(from: Point, ray: Point, distance: f64, style: u8, face: Axis) -> Hit {
    let (at, mirrored) = match face {
        Axis::X => (from.y + distance * ray.y, ray.x < 0.0),
        Axis::Y => (from.x + distance * ray.x, ray.y >= 0.0),
    };
    let along = at - f64::from(at as i32);
    Hit { distance, style, along: if mirrored { 1.0 - along } else { along }, face }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Spot;

    #[test]
    fn distances_are_those_of_the_plan() {
        let map = Map::room(5, 3);
        let from = Point::new(2.25, 2.5);
        let east = cast(&map, from, Point::new(1.0, 0.0));
        assert_eq!((east.distance, east.face, east.along), (3.75, Axis::X, 0.5));
        let west = cast(&map, from, Point::new(-1.0, 0.0));
        assert_eq!((west.distance, west.along), (1.25, 0.5));
        let north = cast(&map, from, Point::new(0.0, -1.0));
        assert_eq!((north.distance, north.face, north.along), (1.5, Axis::Y, 0.25));
        let south = cast(&map, from, Point::new(0.0, 2.0));
        assert_eq!((south.distance, south.along), (0.75, 0.75));
    }

    #[test]
    fn a_closed_door_stops_a_ray_at_its_leaf_and_an_open_one_does_not() {
        let mut map = Map::room(5, 1);
        let door = |open| Cell::Door { style: 7, through: Axis::X, open };
        map.set(Spot::new(3, 1), door(false));
        let from = Point::new(1.5, 1.5);
        let hit = cast(&map, from, Point::new(1.0, 0.0));
        assert_eq!((hit.distance, hit.style), (2.0, 7));
        // Steep enough to meet the jamb behind the cell's border and before the leaf.
        assert_eq!(cast(&map, from, Point::new(1.0, 0.3)).style, 0);
        map.set(Spot::new(3, 1), door(true));
        assert_eq!(cast(&map, from, Point::new(1.0, 0.0)).distance, 4.5);
    }
}
