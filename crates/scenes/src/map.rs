//! The ground plan: cells that are floor, wall or door, and paths over them.

use std::collections::VecDeque;

/// A place on the map, in cells; cell `(i, j)` covers `[i, i+1) × [j, j+1)`. The y axis runs down.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Point {
    /// To the right.
    pub x: f64,
    /// Down.
    pub y: f64,
}

impl Point {
    /// The point of two coordinates.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y }
    }

    /// Squared distance to another point.
    pub fn distance2(self, other: Point) -> f64 {
        let (x, y) = (self.x - other.x, self.y - other.y);
        x * x + y * y
    }

    /// True if the other point is no farther than `radius`.
    pub fn within(self, other: Point, radius: f64) -> bool {
        self.distance2(other) <= radius * radius
    }

    /// The cell that holds this point.
    pub fn spot(self) -> Spot {
        Spot { x: self.x.max(0.0) as usize, y: self.y.max(0.0) as usize }
    }
}

/// A cell's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spot {
    /// Column.
    pub x: usize,
    /// Row.
    pub y: usize,
}

impl Spot {
    /// The address of column `x` and row `y`.
    pub fn new(x: usize, y: usize) -> Self {
        Self { x, y }
    }

    /// The middle of the cell.
    pub fn centre(self) -> Point {
        Point::new(self.x as f64 + 0.5, self.y as f64 + 0.5)
    }

    /// The cells that share a side with this one; those at the map's edge leave some out.
    pub fn neighbours(self) -> impl Iterator<Item = Spot> {
        let Spot { x, y } = self;
        [
            Some((x + 1, y)),
            Some((x, y + 1)),
            x.checked_sub(1).map(|x| (x, y)),
            y.checked_sub(1).map(|y| (x, y)),
        ]
        .into_iter()
        .flatten()
        .map(|(x, y)| Spot { x, y })
    }
}

/// The axis that a way through a door runs along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Axis {
    /// One passes from left to right.
    X,
    /// One passes from top to bottom.
    Y,
}

/// What a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Free ground.
    Floor,
    /// A block as high as the room, in one of the world's styles.
    Wall(u8),
    /// A thin door in the middle of its cell, in one of the world's styles.
    Door {
        /// The style.
        style: u8,
        /// The axis along which one passes.
        through: Axis,
        /// An open door is floor that had a door in it.
        open: bool,
    },
}

impl Cell {
    /// True if nothing stops an agent here.
    pub fn is_open(self) -> bool {
        matches!(self, Cell::Floor | Cell::Door { open: true, .. })
    }
}

/// A rectangle of cells. Everything outside it is wall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    width: usize,
    height: usize,
    cells: Vec<Cell>,
}

impl Map {
    /// A block of wall.
    pub fn solid(width: usize, height: usize) -> Self {
        Self { width, height, cells: vec![Cell::Wall(0); width * height] }
    }

    /// A rectangular room of `width × height` cells with one cell of wall around it.
    pub fn room(width: usize, height: usize) -> Self {
        let mut map = Self::solid(width + 2, height + 2);
        map.carve(Spot::new(1, 1), width, height);
        map
    }

    /// A round room: all cells whose middle lies within `diameter / 2` of the map's, with wall around them.
    pub fn round(diameter: usize) -> Self {
        let mut map = Self::solid(diameter + 2, diameter + 2);
        let middle = Point::new(map.width as f64 / 2.0, map.height as f64 / 2.0);
        for y in 1..=diameter {
            for x in 1..=diameter {
                let spot = Spot::new(x, y);
                if spot.centre().within(middle, diameter as f64 / 2.0) {
                    map.set(spot, Cell::Floor);
                }
            }
        }
        map
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The cell of an address; wall outside the map.
    pub fn get(&self, spot: Spot) -> Cell {
        self.at(spot.x as i32, spot.y as i32)
    }

    /// The cell of column `x` and row `y`; wall outside the map.
    #[inline]
    pub fn at(&self, x: i32, y: i32) -> Cell {
        if (x as u32 as usize) < self.width && (y as u32 as usize) < self.height {
            self.cells[y as usize * self.width + x as usize]
        } else {
            Cell::Wall(0)
        }
    }

    /// Changes a cell; nothing happens outside the map.
    pub fn set(&mut self, spot: Spot, cell: Cell) {
        if spot.x < self.width && spot.y < self.height {
            self.cells[spot.y * self.width + spot.x] = cell;
        }
    }

    /// Makes a rectangle floor.
    pub fn carve(&mut self, corner: Spot, width: usize, height: usize) {
        for y in corner.y..corner.y + height {
            for x in corner.x..corner.x + width {
                self.set(Spot::new(x, y), Cell::Floor);
            }
        }
    }

    /// All addresses, row by row.
    pub fn spots(&self) -> impl Iterator<Item = Spot> + use<> {
        let (width, height) = (self.width, self.height);
        (0..height).flat_map(move |y| (0..width).map(move |x| Spot { x, y }))
    }

    /// The addresses of all floor cells, row by row; doors are none.
    pub fn floor(&self) -> Vec<Spot> {
        self.spots().filter(|&spot| self.get(spot) == Cell::Floor).collect()
    }

    /// Steps from `from` to every cell, row by row, over cells that `passable` allows; `None` where no way leads.
    pub fn distances(&self, from: Spot, passable: impl Fn(Spot) -> bool) -> Vec<Option<u32>> {
        let mut distance = vec![None; self.cells.len()];
        let mut queue = VecDeque::new();
        if from.x < self.width && from.y < self.height {
            distance[from.y * self.width + from.x] = Some(0);
            queue.push_back((from, 0));
        }
        while let Some((spot, steps)) = queue.pop_front() {
            for next in spot.neighbours().filter(|s| s.x < self.width && s.y < self.height) {
                let entry = &mut distance[next.y * self.width + next.x];
                if entry.is_none() && passable(next) {
                    *entry = Some(steps + 1);
                    queue.push_back((next, steps + 1));
                }
            }
        }
        distance
    }

    /// A shortest way from `from` to `to`, both included, over cells that `passable` allows.
    pub fn path(&self, from: Spot, to: Spot, passable: impl Fn(Spot) -> bool) -> Option<Vec<Spot>> {
        // Backwards, so that the walk down the distances runs from the start.
        let distance = self.distances(to, |spot| spot == from || passable(spot));
        let at = |spot: Spot| distance.get(spot.y * self.width + spot.x).copied().flatten();
        let mut spot = from;
        let mut steps = at(spot)?;
        let mut path = vec![spot];
        while steps > 0 {
            spot = spot.neighbours().find(|&next| next.x < self.width && at(next) == Some(steps - 1))?;
            steps -= 1;
            path.push(spot);
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_around_a_wall() {
        let mut map = Map::room(3, 3);
        map.set(Spot::new(2, 1), Cell::Wall(0));
        map.set(Spot::new(2, 2), Cell::Wall(0));
        let open = |spot| map.get(spot).is_open();
        let path = map.path(Spot::new(1, 1), Spot::new(3, 1), open).unwrap();
        assert_eq!(path.len(), 7);
        assert!(path.windows(2).all(|w| w[0].neighbours().any(|s| s == w[1])));
        map.set(Spot::new(2, 3), Cell::Wall(0));
        assert_eq!(map.path(Spot::new(1, 1), Spot::new(3, 1), |spot| map.get(spot).is_open()), None);
    }

    #[test]
    fn the_outside_is_wall() {
        let mut map = Map::room(2, 2);
        assert_eq!(map.at(-1, 1), Cell::Wall(0));
        assert_eq!(map.get(Spot::new(4, 1)), Cell::Wall(0));
        map.set(Spot::new(9, 9), Cell::Floor);
        assert_eq!(map.floor().len(), 4);
        assert!(Map::round(9).floor().len() > 50);
    }
}
