//! Key and door puzzles: rooms joined to a tree, coloured doors between some of them, keys that are used up.
//!
//! Only one key can be carried and taking another drops the first for good, so keys taken or spent in the wrong order
//! can make the goal unreachable. [`solve`] searches all orders; a puzzle that [`puzzle`] builds has at least one.

use std::collections::HashSet;

use crate::env::{Result, config};
use crate::look::BRIGHT;
use crate::map::{Axis, Cell, Map, Spot};
use crate::rng::Stream;

/// Colours that keys and doors can have: the first of [`BRIGHT`].
pub const COLOURS: usize = 5;

/// Trees that are drawn in search of one that has room for all doors and decoys.
const TRIES: usize = 64;

/// The plan of a puzzle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct PuzzleConfig {
    /// Rooms from left to right, 1 to 9.
    pub columns: usize,
    /// Rooms from top to bottom, 1 to 9.
    pub rows: usize,
    /// Side of a room in cells, an odd number from 3 to 15.
    pub room: usize,
    /// Doors between start and goal, 1 to 5, each of a colour of its own. Where the rooms have no way that long there
    /// are fewer.
    pub doors: usize,
    /// Doors to dead ends, in the colour of a door that matters; at most 8. There are fewer where there are no dead
    /// ends for them.
    pub decoys: usize,
}

impl Default for PuzzleConfig {
    fn default() -> Self {
        Self { columns: 3, rows: 3, room: 3, doors: 3, decoys: 1 }
    }
}

impl PuzzleConfig {
    /// Refuses what cannot be built.
    pub(crate) fn check(&self) -> Result<()> {
        for (key, n) in [("puzzle.columns", self.columns), ("puzzle.rows", self.rows)] {
            if !(1..=9).contains(&n) {
                return Err(config(key, format!("{n} is not in 1 to 9")));
            }
        }
        if self.columns * self.rows < 2 {
            return Err(config("puzzle.columns", "a puzzle needs two rooms"));
        }
        if !(3..=15).contains(&self.room) || self.room.is_multiple_of(2) {
            return Err(config("puzzle.room", format!("{} is not an odd number from 3 to 15", self.room)));
        }
        if !(1..=COLOURS).contains(&self.doors) {
            return Err(config("puzzle.doors", format!("{} is not in 1 to {COLOURS}", self.doors)));
        }
        if self.decoys > 8 {
            return Err(config("puzzle.decoys", format!("{} is more than 8", self.decoys)));
        }
        Ok(())
    }
}

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Where it lies.
    pub spot: Spot,
    /// Its colour, an index into [`BRIGHT`].
    pub colour: usize,
}

/// A door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door {
    /// Its cell.
    pub spot: Spot,
    /// The axis along which one passes.
    pub through: Axis,
    /// Its colour, an index into [`BRIGHT`].
    pub colour: usize,
}

/// A puzzle. The map's door cells are closed and have the colour as their style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Puzzle {
    /// The ground plan.
    pub map: Map,
    /// Where the agent starts.
    pub start: Spot,
    /// Where the goal is.
    pub goal: Spot,
    /// The keys, in the order in which a solution uses them.
    pub keys: Vec<Key>,
    /// The doors on the way, in their order, then the decoys.
    pub doors: Vec<Door>,
}

/// Rooms as a tree that hangs from the start.
struct Tree {
    parent: Vec<Option<usize>>,
    depth: Vec<usize>,
    /// Rooms from the start to the deepest one, both included.
    path: Vec<usize>,
}

impl Tree {
    /// Grows a tree over a grid: usually on from the newest room, sometimes from any, which gives long ways with side
    /// branches.
    fn grow(columns: usize, rows: usize, rng: &mut Stream) -> Self {
        let count = columns * rows;
        let mut parent = vec![None; count];
        let mut depth = vec![0; count];
        let mut seen = vec![false; count];
        let start = rng.below(count);
        seen[start] = true;
        let mut live = vec![start];
        while !live.is_empty() {
            let at = if rng.chance(0.7) { live.len() - 1 } else { rng.below(live.len()) };
            let room = live[at];
            let spot = Spot::new(room % columns, room / columns);
            let next: Vec<usize> = spot
                .neighbours()
                .filter(|s| s.x < columns && s.y < rows)
                .map(|s| s.y * columns + s.x)
                .filter(|&r| !seen[r])
                .collect();
            match rng.pick(&next) {
                Some(next) => {
                    seen[next] = true;
                    parent[next] = Some(room);
                    depth[next] = depth[room] + 1;
                    live.push(next);
                }
                None => {
                    live.remove(at);
                }
            }
        }
        let mut path: Vec<usize> = (0..count).max_by_key(|&r| depth[r]).into_iter().collect();
        while let Some(up) = path.last().and_then(|&r| parent[r]) {
            path.push(up);
        }
        path.reverse();
        Self { parent, depth, path }
    }

    /// Rooms off the way that lead nowhere.
    fn dead_ends(&self) -> Vec<usize> {
        (0..self.parent.len())
            .filter(|r| !self.path.contains(r) && !self.parent.contains(&Some(*r)))
            .collect()
    }
}

/// Builds a puzzle that has a solution.
///
/// # Errors
/// If the settings are out of range.
pub fn puzzle(plan: &PuzzleConfig, rng: &mut Stream) -> Result<Puzzle> {
    plan.check()?;
    let mut tree = Tree::grow(plan.columns, plan.rows, rng);
    let rank = |tree: &Tree| (tree.path.len().min(plan.doors + 1), tree.dead_ends().len().min(plan.decoys));
    for _ in 1..TRIES {
        let other = Tree::grow(plan.columns, plan.rows, rng);
        if rank(&other) > rank(&tree) {
            tree = other;
        }
    }

    // Which rooms of the way have a door in front of them; rooms behind k of them form region k.
    let mut behind: Vec<usize> = (1..tree.path.len()).collect();
    rng.shuffle(&mut behind);
    behind.truncate(plan.doors);
    behind.sort_unstable();
    let gates: Vec<usize> = behind.iter().map(|&i| tree.path[i]).collect();
    let region = regions(&tree, &gates);
    let mut colours: Vec<usize> = (0..COLOURS).collect();
    rng.shuffle(&mut colours);

    // A decoy tempts only while a door of its colour is still to come.
    let mut closed = tree.dead_ends();
    rng.shuffle(&mut closed);
    let up = |room: usize| tree.parent[room].unwrap_or(room);
    closed.retain(|&room| region[up(room)] < gates.len());
    closed.truncate(plan.decoys);

    let grid = Grid { columns: plan.columns, room: plan.room };
    let mut map = grid.map(plan.rows);
    let mut doors = Vec::new();
    for (&room, &colour) in gates.iter().zip(&colours) {
        doors.push(grid.door(up(room), room, colour));
    }
    for &room in &closed {
        let first = region[up(room)];
        let colour = colours[first + rng.below(gates.len() - first)];
        doors.push(grid.door(up(room), room, colour));
    }
    for room in 0..tree.parent.len() {
        if let Some(parent) = tree.parent[room] {
            map.set(grid.gap(parent, room).0, Cell::Floor);
        }
    }
    for door in &doors {
        map.set(door.spot, Cell::Door { style: door.colour as u8, through: door.through, open: false });
    }

    // Keys and goal lie in corners, out of the way of those who do not want them.
    let last = tree.path[tree.path.len() - 1];
    let goal = rng.pick(&grid.corners(last)).unwrap_or_else(|| grid.centre(last));
    let mut taken = vec![goal];
    let mut keys = Vec::new();
    for (k, &colour) in colours[..gates.len()].iter().enumerate() {
        let free: Vec<Spot> = (0..tree.parent.len())
            .filter(|room| region[*room] <= k && !closed.contains(room))
            .flat_map(|room| grid.corners(room))
            .filter(|spot| !taken.contains(spot))
            .collect();
        // Never empty: region 0 to k have four corners each at least, of which k keys and a goal take one each.
        if let Some(spot) = rng.pick(&free) {
            taken.push(spot);
            keys.push(Key { spot, colour });
        }
    }
    Ok(Puzzle { map, start: grid.centre(tree.path[0]), goal, keys, doors })
}

/// How many of the gates lie on the way from the start to each room.
fn regions(tree: &Tree, gates: &[usize]) -> Vec<usize> {
    let mut rooms: Vec<usize> = (0..tree.parent.len()).collect();
    rooms.sort_by_key(|&r| tree.depth[r]);
    let mut region = vec![0; rooms.len()];
    for room in rooms {
        if let Some(parent) = tree.parent[room] {
            region[room] = region[parent] + usize::from(gates.contains(&room));
        }
    }
    region
}

/// Where rooms lie on the map.
struct Grid {
    columns: usize,
    room: usize,
}

impl Grid {
    fn map(&self, rows: usize) -> Map {
        let pitch = self.room + 1;
        let mut map = Map::solid(self.columns * pitch + 1, rows * pitch + 1);
        for room in 0..self.columns * rows {
            map.carve(self.corner(room), self.room, self.room);
        }
        map
    }

    fn corner(&self, room: usize) -> Spot {
        let pitch = self.room + 1;
        Spot::new(room % self.columns * pitch + 1, room / self.columns * pitch + 1)
    }

    fn centre(&self, room: usize) -> Spot {
        let corner = self.corner(room);
        Spot::new(corner.x + self.room / 2, corner.y + self.room / 2)
    }

    fn corners(&self, room: usize) -> [Spot; 4] {
        let Spot { x, y } = self.corner(room);
        let far = self.room - 1;
        [(x, y), (x + far, y), (x, y + far), (x + far, y + far)].map(|(x, y)| Spot::new(x, y))
    }

    /// The cell between two neighbouring rooms and the axis through it.
    fn gap(&self, a: usize, b: usize) -> (Spot, Axis) {
        let (a, b) = (self.centre(a), self.centre(b));
        let axis = if a.y == b.y { Axis::X } else { Axis::Y };
        (Spot::new((a.x + b.x) / 2, (a.y + b.y) / 2), axis)
    }

    fn door(&self, from: usize, to: usize, colour: usize) -> Door {
        let (spot, through) = self.gap(from, to);
        Door { spot, through, colour }
    }
}

/// A state of the search: where one stands, which keys and doors are gone, what one carries.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    spot: Spot,
    taken: u32,
    opened: u32,
    /// A key's index, or the number of keys for none.
    carried: usize,
}

/// A shortest way from the start to the goal, both included, that takes keys and opens doors as the rules have it;
/// `None` if there is none. Entering a key's cell takes it.
pub fn solve(puzzle: &Puzzle) -> Option<Vec<Spot>> {
    let start = State { spot: puzzle.start, taken: 0, opened: 0, carried: puzzle.keys.len() };
    let mut seen = HashSet::from([start]);
    // All states met, each with the place of the one before it; the list is the search's queue too.
    let mut states = vec![(start, usize::MAX)];
    let mut at = 0;
    while let Some(&(state, mut back)) = states.get(at) {
        if state.spot == puzzle.goal {
            let mut way = vec![state.spot];
            while let Some(&(state, before)) = states.get(back) {
                way.push(state.spot);
                back = before;
            }
            way.reverse();
            return Some(way);
        }
        for spot in state.spot.neighbours() {
            if let Some(next) = enter(puzzle, state, spot)
                && seen.insert(next)
            {
                states.push((next, at));
            }
        }
        at += 1;
    }
    None
}

/// The state behind a step to a neighbouring cell, if one can make it.
fn enter(puzzle: &Puzzle, state: State, spot: Spot) -> Option<State> {
    let mut next = State { spot, ..state };
    if let Some(d) = puzzle.doors.iter().position(|door| door.spot == spot) {
        if state.opened >> d & 1 == 0 {
            let fits = puzzle.keys.get(state.carried)?.colour == puzzle.doors[d].colour;
            if !fits {
                return None;
            }
            next.opened |= 1 << d;
            next.carried = puzzle.keys.len();
        }
    } else if !puzzle.map.get(spot).is_open() {
        return None;
    }
    if let Some(k) = puzzle.keys.iter().position(|key| key.spot == spot)
        && state.taken >> k & 1 == 0
    {
        next.taken |= 1 << k;
        next.carried = k;
    }
    Some(next)
}

/// The colour of a number.
pub(crate) fn colour(index: usize) -> crate::look::Rgb {
    BRIGHT[index % BRIGHT.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::rng::Purpose;

    #[test]
    fn every_puzzle_has_a_solution_and_none_without_its_keys() {
        for seed in 0..200 {
            let mut rng = Stream::new(seed, 0, Purpose::Layout);
            let plan = PuzzleConfig {
                columns: 2 + rng.below(3),
                rows: 1 + rng.below(3),
                room: 3,
                doors: 1 + rng.below(3),
                decoys: rng.below(3),
            };
            let puzzle = puzzle(&plan, &mut rng).unwrap();
            let way = solve(&puzzle).unwrap_or_else(|| panic!("seed {seed}: {plan:?}"));
            assert_eq!((way[0], way[way.len() - 1]), (puzzle.start, puzzle.goal));
            for k in 0..puzzle.keys.len() {
                let mut less = puzzle.clone();
                less.keys.remove(k);
                assert_eq!(solve(&less), None, "seed {seed}: key {k} is not needed");
            }
            let spots: Vec<Spot> = puzzle.keys.iter().map(|k| k.spot).collect();
            assert!(spots.iter().all(|s| *s != puzzle.goal && *s != puzzle.start));
        }
    }

    /// True if some state that can be reached has no way to the goal any more.
    fn has_trap(puzzle: &Puzzle) -> bool {
        let start = State { spot: puzzle.start, taken: 0, opened: 0, carried: puzzle.keys.len() };
        let mut number = HashMap::from([(start, 0)]);
        let mut states = vec![start];
        let mut before: Vec<Vec<usize>> = vec![Vec::new()];
        let mut at = 0;
        while at < states.len() {
            let state = states[at];
            for next in state.spot.neighbours().filter_map(|spot| enter(puzzle, state, spot)) {
                let n = *number.entry(next).or_insert(states.len());
                if n == states.len() {
                    states.push(next);
                    before.push(Vec::new());
                }
                before[n].push(at);
            }
            at += 1;
        }
        let mut alive: Vec<bool> = states.iter().map(|s| s.spot == puzzle.goal).collect();
        let mut stack: Vec<usize> = (0..states.len()).filter(|&i| alive[i]).collect();
        while let Some(i) = stack.pop() {
            for &j in &before[i] {
                if !alive[j] {
                    alive[j] = true;
                    stack.push(j);
                }
            }
        }
        alive.contains(&false)
    }

    #[test]
    fn order_matters_in_nearly_every_puzzle() {
        let traps = (0..40)
            .filter(|&seed| {
                let mut rng = Stream::new(seed, 1, Purpose::Layout);
                has_trap(&puzzle(&PuzzleConfig::default(), &mut rng).unwrap())
            })
            .count();
        assert!(traps >= 38, "{traps} of 40");
    }

    #[test]
    fn bad_plans_are_refused_by_name() {
        let plan = PuzzleConfig::default();
        for (bad, key) in [
            (PuzzleConfig { columns: 0, ..plan }, "puzzle.columns"),
            (PuzzleConfig { columns: 1, rows: 1, ..plan }, "puzzle.columns"),
            (PuzzleConfig { room: 4, ..plan }, "puzzle.room"),
            (PuzzleConfig { doors: 6, ..plan }, "puzzle.doors"),
            (PuzzleConfig { decoys: 9, ..plan }, "puzzle.decoys"),
        ] {
            let error = puzzle(&bad, &mut Stream::new(0, 0, Purpose::Layout)).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
