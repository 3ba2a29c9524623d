//! What stands in a room, and where.

use super::Label;
use super::solid::{Drawing, Form, Paint, Solid};
use super::vector::Vec3;
use crate::angle::Angle;
use crate::rng::{Purpose, Stream};

/// A furnished room: a box from `(0, 0, 0)` to [`Room::size`], lit from [`Room::lamp`].
#[derive(Debug, Clone, PartialEq)]
pub struct Room {
    /// Width, length and height in metres.
    pub size: Vec3,
    /// Where the light is.
    pub lamp: Vec3,
    /// The light that is everywhere, as a part of all.
    pub ambient: f64,
    /// Floor, ceiling, and the walls at x = 0, x = width, y = 0 and y = length.
    pub surfaces: [Paint; 6],
    /// The furniture.
    pub solids: Vec<Solid>,
}

/// A piece while it is put together: parts are placed in its own frame, front to the viewer's side.
struct Piece<'a> {
    room: &'a mut Vec<Solid>,
    at: Vec3,
    heading: [f64; 2],
    label: Label,
}

impl Piece<'_> {
    fn part(&mut self, middle: Vec3, form: Form, paint: Paint) {
        let middle = self.at + middle.turned(self.heading);
        self.room.push(Solid { middle, heading: self.heading, form, label: self.label, paint });
    }

    /// A box whose lower side is at height `z`.
    fn block(&mut self, [x, y, z]: [f64; 3], [w, d, h]: [f64; 3], paint: Paint) {
        let half = Vec3::new(w / 2.0, d / 2.0, h / 2.0);
        self.part(Vec3::new(x, y, z + h / 2.0), Form::Box(half), paint);
    }
}

/// A colour that is neither black nor glaring.
fn colour(rng: &mut Stream) -> [u8; 3] {
    [0; 3].map(|_| (40 + rng.below(190)) as u8)
}

fn paint(rng: &mut Stream, patterned: f64) -> Paint {
    let pattern = if rng.chance(patterned) {
        Drawing::ALL[1 + rng.below(Drawing::ALL.len() - 1)]
    } else {
        Drawing::Plain
    };
    Paint { base: colour(rng), accent: colour(rng), pattern, size: rng.range(0.15, 0.6) }
}

/// Everything that can stand on the floor.
const FURNITURE: [Label; 7] =
    [Label::Bed, Label::Table, Label::Chair, Label::Cabinet, Label::Sofa, Label::Lamp, Label::Ball];

impl Room {
    /// Room `number` of a seed.
    pub fn new(seed: u64, number: u64) -> Self {
        let rng = &mut Stream::new(seed, number, Purpose::Layout);
        let size = Vec3::new(rng.range(3.2, 6.0), rng.range(3.2, 6.0), rng.range(2.3, 3.0));
        let lamp = Vec3::new(
            size.x * rng.range(0.3, 0.7),
            size.y * rng.range(0.3, 0.7),
            size.z * rng.range(0.8, 0.95),
        );
        let ambient = rng.range(0.25, 0.45);
        let wall = paint(rng, 0.3);
        // All walls alike but for one in three.
        let mut walls = [wall; 4];
        walls[rng.below(4)] = if rng.chance(0.33) { paint(rng, 0.5) } else { wall };
        let (floor, ceiling) = (paint(rng, 0.6), Paint { pattern: Drawing::Plain, ..paint(rng, 0.0) });
        let surfaces = [floor, ceiling, walls[0], walls[1], walls[2], walls[3]];
        let mut room = Self { size, lamp, ambient, surfaces, solids: Vec::new() };
        if rng.chance(0.6) {
            room.rug(rng);
        }
        for _ in 0..1 + rng.below(3) {
            room.picture(rng);
        }
        let mut taken: Vec<(f64, f64, f64)> = Vec::new();
        for _ in 0..5 + rng.below(4) {
            let label = FURNITURE[rng.below(FURNITURE.len())];
            room.place(label, &mut taken, rng);
        }
        room
    }

    /// Puts a piece where there is room for it; after some tries it stays out.
    fn place(&mut self, label: Label, taken: &mut Vec<(f64, f64, f64)>, rng: &mut Stream) {
        // Half the greatest extent on the floor.
        let reach = match label {
            Label::Bed => 1.05,
            Label::Sofa => 0.95,
            Label::Table => 0.7,
            Label::Cabinet => 0.6,
            Label::Chair => 0.35,
            Label::Lamp => 0.25,
            _ => 0.3,
        };
        let against_wall = matches!(label, Label::Bed | Label::Sofa | Label::Cabinet) && rng.chance(0.8);
        for _ in 0..12 {
            let side = rng.below(4);
            let margin = if against_wall { 0.55 } else { reach };
            let mut x = rng.range(margin, self.size.x - margin);
            let mut y = rng.range(margin, self.size.y - margin);
            let mut heading = Angle::new(rng.below(360) as i32);
            if against_wall {
                // Its back stands to the wall.
                let depth = if label == Label::Bed { 1.05 } else { 0.5 };
                match side {
                    0 => y = self.size.y - depth,
                    1 => x = depth,
                    2 => y = depth,
                    _ => x = self.size.x - depth,
                }
                heading = Angle::new(90 * side as i32);
            }
            let free = taken.iter().all(|&(tx, ty, r)| {
                let (dx, dy) = (tx - x, ty - y);
                dx * dx + dy * dy > (r + reach) * (r + reach) * 0.75
            });
            if free {
                taken.push((x, y, reach));
                self.build(label, Vec3::new(x, y, 0.0), heading, rng);
                return;
            }
        }
    }

    /// Puts a piece together.
    fn build(&mut self, label: Label, at: Vec3, heading: Angle, rng: &mut Stream) {
        let heading = [heading.cos(), heading.sin()];
        let (main, other) = (paint(rng, 0.35), paint(rng, 0.2));
        let mut piece = Piece { room: &mut self.solids, at, heading, label };
        match label {
            Label::Bed => {
                let (w, h) = (rng.range(0.9, 1.5), rng.range(0.35, 0.55));
                piece.block([0.0, 0.0, 0.0], [w, 1.95, h], main);
                piece.block([0.0, 0.95, 0.0], [w, 0.1, h + rng.range(0.3, 0.6)], other);
                piece.block([0.0, 0.65, h], [w * 0.6, 0.4, 0.12], Paint { base: other.accent, ..other });
            }
            Label::Table => {
                let (w, d, h) = (rng.range(0.8, 1.3), rng.range(0.6, 0.9), rng.range(0.65, 0.8));
                piece.block([0.0, 0.0, h - 0.06], [w, d, 0.06], main);
                let (x, y) = (w / 2.0 - 0.06, d / 2.0 - 0.06);
                for (x, y) in [(x, y), (-x, y), (x, -y), (-x, -y)] {
                    let leg = Form::Cylinder { radius: 0.04, half: (h - 0.06) / 2.0 };
                    piece.part(Vec3::new(x, y, (h - 0.06) / 2.0), leg, main);
                }
            }
            Label::Chair => {
                let (w, h) = (rng.range(0.4, 0.5), rng.range(0.42, 0.5));
                piece.block([0.0, 0.0, h - 0.06], [w, w, 0.06], main);
                piece.block([0.0, w / 2.0 - 0.03, h], [w, 0.05, rng.range(0.4, 0.55)], main);
                let x = w / 2.0 - 0.04;
                for (x, y) in [(x, x), (-x, x), (x, -x), (-x, -x)] {
                    let leg = Form::Cylinder { radius: 0.03, half: (h - 0.06) / 2.0 };
                    piece.part(Vec3::new(x, y, (h - 0.06) / 2.0), leg, other);
                }
            }
            Label::Cabinet => {
                let (w, d, h) = (rng.range(0.7, 1.2), rng.range(0.4, 0.6), rng.range(1.0, 2.1));
                piece.block([0.0, 0.15, 0.0], [w, d, h], main);
                piece.block([0.0, 0.15 - d / 2.0 - 0.01, 0.1], [0.02, 0.02, h - 0.2], other);
            }
            Label::Sofa => {
                let (w, h) = (rng.range(1.3, 1.9), rng.range(0.38, 0.48));
                piece.block([0.0, 0.0, 0.0], [w, 0.8, h], main);
                piece.block([0.0, 0.35, h], [w, 0.2, rng.range(0.35, 0.5)], main);
                for x in [w / 2.0 - 0.1, 0.1 - w / 2.0] {
                    piece.block([x, 0.0, h], [0.2, 0.8, 0.2], main);
                }
            }
            Label::Lamp => {
                let h = rng.range(1.2, 1.7);
                piece.part(
                    Vec3::new(0.0, 0.0, h / 2.0),
                    Form::Cylinder { radius: 0.03, half: h / 2.0 },
                    other,
                );
                piece.part(Vec3::new(0.0, 0.0, 0.02), Form::Cylinder { radius: 0.16, half: 0.02 }, other);
                let shade = Form::Cylinder { radius: rng.range(0.15, 0.24), half: 0.14 };
                piece.part(Vec3::new(0.0, 0.0, h), shade, main);
            }
            _ => {
                let radius = rng.range(0.12, 0.28);
                piece.part(Vec3::new(0.0, 0.0, radius), Form::Sphere(radius), main);
            }
        }
    }

    fn rug(&mut self, rng: &mut Stream) {
        let at = Vec3::new(self.size.x * rng.range(0.35, 0.65), self.size.y * rng.range(0.35, 0.65), 0.0);
        let heading = Angle::new(rng.below(360) as i32);
        let (paint, round) = (paint(rng, 0.7), rng.chance(0.4));
        let heading = [heading.cos(), heading.sin()];
        let mut piece = Piece { room: &mut self.solids, at, heading, label: Label::Rug };
        if round {
            let form = Form::Cylinder { radius: rng.range(0.6, 1.1), half: 0.01 };
            piece.part(Vec3::new(0.0, 0.0, 0.01), form, paint);
        } else {
            piece.block([0.0, 0.0, 0.0], [rng.range(1.2, 2.2), rng.range(0.8, 1.5), 0.02], paint);
        }
    }

    fn picture(&mut self, rng: &mut Stream) {
        let side = rng.below(4);
        let along = rng.range(0.25, 0.75);
        let (at, heading) = match side {
            0 => (Vec3::new(self.size.x * along, self.size.y - 0.02, 0.0), Angle::new(0)),
            1 => (Vec3::new(0.02, self.size.y * along, 0.0), Angle::new(90)),
            2 => (Vec3::new(self.size.x * along, 0.02, 0.0), Angle::new(180)),
            _ => (Vec3::new(self.size.x - 0.02, self.size.y * along, 0.0), Angle::new(270)),
        };
        let heading = [heading.cos(), heading.sin()];
        let paint = paint(rng, 0.8);
        let mut piece = Piece { room: &mut self.solids, at, heading, label: Label::Picture };
        let size = [rng.range(0.4, 1.1), 0.03, rng.range(0.4, 0.9)];
        piece.block([0.0, 0.0, rng.range(1.0, 1.3)], size, paint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wide piece in a corner may reach into the wall, which hides that part; it never stands behind it.
    #[test]
    fn furniture_stands_inside_its_room() {
        const IN_WALL: f64 = 0.45;
        for number in 0..40 {
            let room = Room::new(3, number);
            assert!(room.solids.len() >= 5, "{number}: {}", room.solids.len());
            for solid in &room.solids {
                let Vec3 { x, y, z } = solid.middle;
                let within = |at: f64, size: f64| at > -IN_WALL && at < size + IN_WALL;
                let inside = within(x, room.size.x) && within(y, room.size.y) && z > 0.0 && z < room.size.z;
                assert!(inside, "{number}: {solid:?}");
            }
            assert_eq!(room, Room::new(3, number));
        }
        assert_ne!(Room::new(3, 0), Room::new(4, 0));
    }
}
