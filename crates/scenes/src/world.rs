//! What all tasks share: the map, the agent's body and motion, objects that stand about, and how it all looks.

use crate::angle::Angle;
use crate::look::{Ceiling, Pattern, Rgb, Shape, Style};
use crate::map::{Map, Point, Spot};
use crate::ray;
use crate::rng::Stream;

/// Half the side of the agent's body, in cells.
pub const AGENT_RADIUS: f64 = 0.22;

/// Distance between the agent's and an object's middle at which the agent has it.
pub const REACH: f64 = 0.5;

/// A body's gap to the wall it leans on, so that rounding never puts it inside.
const GAP: f64 = 1e-6;

/// The one who looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agent {
    /// Where it stands.
    pub position: Point,
    /// Where it looks.
    pub heading: Angle,
    /// True while it can turn but not walk.
    pub rooted: bool,
}

/// Something that stands about and faces the viewer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Object {
    /// Where it stands.
    pub position: Point,
    /// Its shape.
    pub shape: Shape,
    /// Its colour.
    pub colour: Rgb,
    /// The colour of its details.
    pub detail: Rgb,
    /// Side of the square it fills, in cells.
    pub size: f64,
    /// Height of its middle above the floor, in cells; the eye is at one half.
    pub lift: f64,
    /// What the task makes of it: an index or a kind of the task's own.
    pub tag: usize,
}

impl Object {
    /// An object of the usual size in the usual height.
    pub fn new(position: Point, shape: Shape, colour: Rgb, detail: Rgb, tag: usize) -> Self {
        Self { position, shape, colour, detail, size: 0.5, lift: 0.35, tag }
    }
}

/// A round patch on the floor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patch {
    /// Its middle.
    pub centre: Point,
    /// Its radius in cells.
    pub radius: f64,
    /// Its colour.
    pub colour: Rgb,
}

/// Everything that a frame is drawn from.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// The ground plan.
    pub map: Map,
    /// Styles of walls and doors; cells hold indices into it, taken modulo its length.
    pub styles: Vec<Style>,
    /// The floor.
    pub floor: Style,
    /// What is overhead.
    pub ceiling: Ceiling,
    /// Height of walls, doors and a roof in cells, more than the eye's half; the eye does not rise with it.
    pub wall_height: f64,
    /// The agent.
    pub agent: Agent,
    /// What stands about.
    pub objects: Vec<Object>,
    /// A patch on the floor, if one is to be seen.
    pub patch: Option<Patch>,
    /// A square in the picture's corner: what the agent carries.
    pub badge: Option<Rgb>,
    /// A mark in the picture's middle: where a shot goes.
    pub crosshair: bool,
}

impl World {
    /// A world of a map, with plain looks, nothing in it and the agent in the corner.
    pub fn new(map: Map) -> Self {
        Self {
            map,
            styles: vec![Style::new(Pattern::Stone, [128; 3], [96; 3])],
            floor: Style::new(Pattern::Tiles, [120, 116, 108], [92, 88, 82]),
            ceiling: Ceiling::Sky([72, 128, 206], [196, 220, 240]),
            wall_height: 1.0,
            agent: Agent { position: Point::new(1.5, 1.5), heading: Angle::new(0), rooted: false },
            objects: Vec::new(),
            patch: None,
            badge: None,
            crosshair: false,
        }
    }

    /// Walks the agent `ahead` and `aside` cells from where it looks; walls and closed doors let it slide along them.
    pub fn walk(&mut self, ahead: f64, aside: f64) {
        if self.agent.rooted || (ahead == 0.0 && aside == 0.0) {
            return;
        }
        let (sin, cos) = (self.agent.heading.sin(), self.agent.heading.cos());
        let by = Point::new(ahead * cos - aside * sin, ahead * sin + aside * cos);
        self.agent.position = slide(&self.map, self.agent.position, by, AGENT_RADIUS).0;
    }

    /// Distance from the agent along a direction to the nearest wall or closed door.
    pub fn sight(&self, heading: Angle) -> f64 {
        ray::cast(&self.map, self.agent.position, Point::new(heading.cos(), heading.sin())).distance
    }

    /// The middle of a random floor cell that is at least `apart` cells from each of the points; if there is none, of
    /// the one that lies farthest from them. `None` only where the map has no floor.
    pub fn free_spot(&self, away_from: &[Point], apart: f64, rng: &mut Stream) -> Option<Spot> {
        free_spot(&self.map, away_from, apart, rng)
    }

    /// Puts the agent into the middle of a cell, looking anywhere.
    pub fn place_agent(&mut self, spot: Spot, rng: &mut Stream) {
        self.agent.position = spot.centre();
        self.agent.heading = Angle::new(rng.below(360) as i32);
    }
}

/// See [`World::free_spot`].
pub fn free_spot(map: &Map, away_from: &[Point], apart: f64, rng: &mut Stream) -> Option<Spot> {
    let floor = map.floor();
    let clearance =
        |spot: Spot| away_from.iter().map(|p| p.distance2(spot.centre())).fold(f64::INFINITY, f64::min);
    let far: Vec<Spot> = floor.iter().copied().filter(|&spot| clearance(spot) >= apart * apart).collect();
    rng.pick(&far).or_else(|| floor.into_iter().max_by(|&a, &b| clearance(a).total_cmp(&clearance(b))))
}

/// Moves a square body of half side `radius` by less than a cell: one axis after the other, each as far as it is free,
/// so that what is left of a blocked motion slides along the wall. True if something was in the way.
pub fn slide(map: &Map, from: Point, by: Point, radius: f64) -> (Point, bool) {
    let mut at = from;
    let mut blocked = false;
    let x = Point::new(at.x + by.x, at.y);
    if is_free(map, x, radius) {
        at = x;
    } else {
        at.x = contact(at.x, x.x, by.x, radius);
        blocked = true;
    }
    let y = Point::new(at.x, at.y + by.y);
    if is_free(map, y, radius) {
        at = y;
    } else {
        at.y = contact(at.y, y.y, by.y, radius);
        blocked = true;
    }
    (at, blocked)
}

/// True if a square body lies on open cells only.
pub fn is_free(map: &Map, at: Point, radius: f64) -> bool {
    let (left, right) = ((at.x - radius).floor() as i32, (at.x + radius).floor() as i32);
    let (top, bottom) = ((at.y - radius).floor() as i32, (at.y + radius).floor() as i32);
    (top..=bottom).all(|y| (left..=right).all(|x| map.at(x, y).is_open()))
}

/// Where a body that wanted from `from` to `to` on one axis touches the border of the cell that stopped it.
fn contact(from: f64, to: f64, by: f64, radius: f64) -> f64 {
    if by > 0.0 {
        from.max((to + radius).floor() - radius - GAP)
    } else {
        from.min((to - radius).floor() + 1.0 + radius + GAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Axis, Cell};
    use crate::maze::{MazeConfig, maze};
    use crate::rng::Purpose;

    #[test]
    fn a_body_slides_along_a_wall_up_to_contact() {
        let map = Map::room(4, 4);
        let (at, blocked) = slide(&map, Point::new(4.7, 2.0), Point::new(0.2, 0.2), 0.22);
        assert!(blocked);
        assert!((at.x - 4.78).abs() < 1e-5 && (at.y - 2.2).abs() < 1e-12, "{at:?}");
        let (at, _) = slide(&map, Point::new(1.3, 1.3), Point::new(-0.4, -0.4), 0.22);
        assert!((at.x - 1.22).abs() < 1e-5 && (at.y - 1.22).abs() < 1e-5, "{at:?}");
    }

    #[test]
    fn no_walk_ends_inside_a_wall_or_beyond_one() {
        for seed in 0..40 {
            let mut rng = Stream::new(seed, 0, Purpose::Play);
            let map = maze(&MazeConfig::default(), &mut rng).unwrap();
            let mut world = World::new(map);
            for _ in 0..2000 {
                let before = world.agent.position;
                world.agent.heading = Angle::new(rng.below(360) as i32);
                world.walk(rng.range(-0.5, 0.5), rng.range(-0.5, 0.5));
                let after = world.agent.position;
                assert!(is_free(&world.map, after, AGENT_RADIUS), "seed {seed}: {after:?}");
                // Less than a cell of motion cannot lead past a wall one cell thick.
                assert!(before.within(after, 0.75), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_closed_door_is_a_wall_and_an_open_one_is_floor() {
        for open in [false, true] {
            let mut map = Map::room(5, 1);
            map.set(Spot::new(3, 1), Cell::Door { style: 0, through: Axis::X, open });
            let mut world = World::new(map);
            for _ in 0..40 {
                world.walk(0.2, 0.0);
            }
            assert_eq!(world.agent.position.x > 3.0, open);
        }
    }

    #[test]
    fn free_spots_keep_their_distance_where_they_can() {
        let world = World::new(Map::room(7, 7));
        let mut rng = Stream::new(1, 0, Purpose::Play);
        let corner = Point::new(1.5, 1.5);
        for _ in 0..200 {
            let spot = world.free_spot(&[corner], 4.0, &mut rng).unwrap();
            assert!(!corner.within(spot.centre(), 3.99));
        }
        assert_eq!(world.free_spot(&[corner], 99.0, &mut rng), Some(Spot::new(7, 7)));
    }
}
