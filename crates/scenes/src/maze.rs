//! Mazes: a recursive backtracker, then rooms and loops cut into what it left.

use crate::env::{Result, config};
use crate::map::{Cell, Map, Spot};
use crate::rng::Stream;

/// Places that are tried for each room.
const ROOM_TRIES: usize = 8;

/// The plan of a maze.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct MazeConfig {
    /// Columns with the outer walls, an odd number from 5 to 255.
    pub width: usize,
    /// Rows with the outer walls, an odd number from 5 to 255.
    pub height: usize,
    /// Probability that a wall between two neighbouring corridors is taken out: 0 leaves a tree, 1 pillars.
    pub loops: f64,
    /// Rooms that are cut into the maze, fewer where there is no place for one beside the others.
    pub rooms: usize,
    /// Smallest side of a room, in cells; rooms have odd sides.
    pub room_min: usize,
    /// Largest side of a room, in cells.
    pub room_max: usize,
}

impl Default for MazeConfig {
    /// The sizes of DeepMind Lab's small `explore` levels, with a few loops.
    fn default() -> Self {
        Self { width: 11, height: 11, loops: 0.1, rooms: 4, room_min: 3, room_max: 5 }
    }
}

impl MazeConfig {
    /// Refuses what cannot be built.
    pub(crate) fn check(&self) -> Result<()> {
        for (key, side) in [("maze.width", self.width), ("maze.height", self.height)] {
            if !(5..=255).contains(&side) || side.is_multiple_of(2) {
                return Err(config(key, format!("{side} is not an odd number from 5 to 255")));
            }
        }
        if !(0.0..=1.0).contains(&self.loops) {
            return Err(config("maze.loops", format!("{} is not in [0, 1]", self.loops)));
        }
        let inner = self.width.min(self.height) - 2;
        if self.rooms > 0 && !(1 <= self.room_min && self.room_min <= self.room_max && self.room_max <= inner)
        {
            let reason = format!(
                "a room's side is {} to {}; expected 1 ≤ min ≤ max ≤ {inner}",
                self.room_min, self.room_max
            );
            return Err(config("maze.room_min", reason));
        }
        if self.rooms > 0 && self.room_min == self.room_max && self.room_min.is_multiple_of(2) {
            return Err(config("maze.room_min", "no odd side lies between room_min and room_max"));
        }
        Ok(())
    }
}

/// Builds a maze in which every floor cell can be reached from every other.
///
/// # Errors
/// If the settings are out of range.
pub fn maze(plan: &MazeConfig, rng: &mut Stream) -> Result<Map> {
    plan.check()?;
    let mut map = Map::solid(plan.width, plan.height);
    tree(&mut map, rng);
    let mut rooms = Vec::new();
    for _ in 0..ROOM_TRIES * plan.rooms {
        if rooms.len() < plan.rooms {
            rooms.extend(room(plan, &rooms, rng));
        }
    }
    for (corner, width, height) in rooms {
        map.carve(corner, width, height);
    }
    loops(&mut map, plan.loops, rng);
    Ok(map)
}

/// The recursive backtracker over the cells with two odd coordinates.
fn tree(map: &mut Map, rng: &mut Stream) {
    let nodes = ((map.width() - 1) / 2, (map.height() - 1) / 2);
    let start = Spot::new(2 * rng.below(nodes.0) + 1, 2 * rng.below(nodes.1) + 1);
    map.set(start, Cell::Floor);
    let mut stack = vec![start];
    while let Some(&spot) = stack.last() {
        let mut ways = [None; 4];
        let mut count = 0;
        for (dx, dy) in [(2, 0), (0, 2), (-2, 0), (0, -2)] {
            let (x, y) = (spot.x as i32 + dx, spot.y as i32 + dy);
            let inside = x > 0 && y > 0 && x < map.width() as i32 && y < map.height() as i32;
            if inside && map.at(x, y) != Cell::Floor {
                ways[count] = Some((Spot::new(x as usize, y as usize), dx / 2, dy / 2));
                count += 1;
            }
        }
        if let Some(Some((next, dx, dy))) = rng.pick(&ways[..count]) {
            map.set(Spot::new((spot.x as i32 + dx) as usize, (spot.y as i32 + dy) as usize), Cell::Floor);
            map.set(next, Cell::Floor);
            stack.push(next);
        } else {
            stack.pop();
        }
    }
}

/// A room's upper left cell, width and height.
type Room = (Spot, usize, usize);

/// Draws one room whose corners lie on the backtracker's cells, so that it joins every corridor it touches; `None` if it
/// overlaps another.
fn room(plan: &MazeConfig, others: &[Room], rng: &mut Stream) -> Option<Room> {
    let sides: Vec<usize> = (plan.room_min..=plan.room_max).filter(|side| side % 2 == 1).collect();
    let (width, height) = (rng.pick(&sides)?, rng.pick(&sides)?);
    let x = 2 * rng.below((plan.width - 1 - width).div_ceil(2)) + 1;
    let y = 2 * rng.below((plan.height - 1 - height).div_ceil(2)) + 1;
    let apart = |&(corner, w, h): &Room| {
        x + width <= corner.x || corner.x + w <= x || y + height <= corner.y || corner.y + h <= y
    };
    others.iter().all(apart).then_some((Spot::new(x, y), width, height))
}

fn loops(map: &mut Map, probability: f64, rng: &mut Stream) {
    for spot in map.spots() {
        let inner = spot.x > 0 && spot.y > 0 && spot.x + 1 < map.width() && spot.y + 1 < map.height();
        let between = spot.x % 2 != spot.y % 2;
        // Drawn for every such wall, standing or not, so that one more room leaves the other loops as they are.
        if inner && between && rng.chance(probability) {
            map.set(spot, Cell::Floor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    fn reachable(map: &Map) -> usize {
        let floor = map.floor();
        map.distances(floor[0], |s| map.get(s).is_open()).iter().flatten().count()
    }

    #[test]
    fn every_floor_cell_can_be_reached_and_the_border_is_closed() {
        for seed in 0..300 {
            let mut rng = Stream::new(seed, 0, Purpose::Layout);
            let plan = MazeConfig {
                width: 5 + 2 * rng.below(12),
                height: 5 + 2 * rng.below(12),
                loops: rng.unit() * 0.5,
                rooms: rng.below(5),
                room_min: 1 + rng.below(3),
                room_max: 3,
            };
            let map = maze(&plan, &mut rng).unwrap();
            assert_eq!(reachable(&map), map.floor().len(), "{plan:?}");
            for spot in map.spots() {
                let edge =
                    spot.x == 0 || spot.y == 0 || spot.x + 1 == map.width() || spot.y + 1 == map.height();
                assert!(!edge || map.get(spot) == Cell::Wall(0), "{plan:?} {spot:?}");
                if spot.x % 2 == 1 && spot.y % 2 == 1 {
                    assert_eq!(map.get(spot), Cell::Floor);
                }
            }
        }
    }

    #[test]
    fn without_loops_and_rooms_it_is_a_tree() {
        let plan = MazeConfig { width: 21, height: 15, loops: 0.0, rooms: 0, ..MazeConfig::default() };
        let map = maze(&plan, &mut Stream::new(5, 0, Purpose::Layout)).unwrap();
        // A tree of n nodes has n − 1 edges, each one cell.
        let nodes = 10 * 7;
        assert_eq!(map.floor().len(), 2 * nodes - 1);
    }

    #[test]
    fn bad_plans_are_refused_by_name() {
        let bad = [
            (MazeConfig { width: 10, ..MazeConfig::default() }, "maze.width"),
            (MazeConfig { height: 3, ..MazeConfig::default() }, "maze.height"),
            (MazeConfig { loops: f64::NAN, ..MazeConfig::default() }, "maze.loops"),
            (MazeConfig { room_max: 11, ..MazeConfig::default() }, "maze.room_min"),
        ];
        for (plan, key) in bad {
            let error = maze(&plan, &mut Stream::new(0, 0, Purpose::Layout)).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
