//! Objects as small pictures that face the viewer: for each texel whether it is covered, how much of the detail colour
//! it has and how bright it is.

use std::sync::LazyLock;

use super::texture::{LEVELS, SIDE};
use crate::look::Shape;

/// One place of an object's picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Texel {
    /// True where the object is.
    pub covered: bool,
    /// Share of the detail colour, 0 to 255.
    pub mix: u8,
    /// Brightness, 0 to 255.
    pub light: u8,
}

/// An object's picture in all sizes.
pub struct Sprite {
    levels: [Vec<Texel>; LEVELS],
}

impl Sprite {
    /// The picture of a size, row by row, `SIDE >> level` to a side.
    #[inline]
    pub fn level(&self, level: usize) -> &[Texel] {
        &self.levels[level]
    }

    fn new(shape: Shape) -> Self {
        let mut levels: [Vec<Texel>; LEVELS] = Default::default();
        levels[0] = (0..SIDE * SIDE)
            .map(|i| {
                let at = |k: usize| 2.0 * (k as f32 + 0.5) / SIDE as f32 - 1.0;
                match paint(shape, at(i % SIDE), at(i / SIDE)) {
                    Some((mix, light)) => Texel {
                        covered: true,
                        mix: (255.0 * mix) as u8,
                        light: (255.0 * light.clamp(0.0, 1.0)) as u8,
                    },
                    None => Texel::default(),
                }
            })
            .collect();
        for level in 1..LEVELS {
            levels[level] = halve(&levels[level - 1], SIDE >> (level - 1));
        }
        Self { levels }
    }
}

static SPRITES: LazyLock<Vec<Sprite>> = LazyLock::new(|| Shape::ALL.into_iter().map(Sprite::new).collect());

/// All sprites, by the shape's number.
pub fn sprites() -> &'static [Sprite] {
    &SPRITES
}

/// Half of the texels covered make a covered one, whose colour is the mean of those.
fn halve(fine: &[Texel], side: usize) -> Vec<Texel> {
    let half = side / 2;
    (0..half * half)
        .map(|i| {
            let at = 2 * (i / half) * side + 2 * (i % half);
            let (mut count, mut mix, mut light) = (0_u32, 0_u32, 0_u32);
            for texel in [at, at + 1, at + side, at + side + 1].map(|k| fine[k]) {
                if texel.covered {
                    count += 1;
                    mix += u32::from(texel.mix);
                    light += u32::from(texel.light);
                }
            }
            if count < 2 {
                return Texel::default();
            }
            Texel { covered: true, mix: (mix / count) as u8, light: (light / count) as u8 }
        })
        .collect()
}

/// Detail and light of a shape at a place of the square from −1 to 1, v running down; `None` beside it.
fn paint(shape: Shape, u: f32, v: f32) -> Option<(f32, f32)> {
    match shape {
        Shape::Ball => ball(u, v, 0.95).map(|light| (0.0, light)),
        Shape::Apple => {
            let leaf = ellipse(u - 0.32, v + 0.72, 0.3, 0.14);
            let stalk = (u - 0.02).abs() < 0.06 && (-0.95..-0.45).contains(&v);
            if leaf || stalk {
                return Some((1.0, if leaf { 0.9 } else { 0.4 }));
            }
            // Two lobes with a dip between them.
            let lobe = |c: f32| ball((u - c) / 0.9, (v - 0.15) / 0.95, 0.8);
            lobe(-0.16).or_else(|| lobe(0.16)).map(|light| (0.0, light))
        }
        Shape::Lemon => {
            let tip = ellipse(u.abs() - 0.82, v, 0.16, 0.1);
            ball(u / 0.85, v / 0.62, 1.0).map(|light| (0.0, light)).or(if tip {
                Some((1.0, 0.8))
            } else {
                None
            })
        }
        Shape::Gem => {
            let edge = u.abs() * 1.3 + v.abs();
            if edge > 0.95 {
                return None;
            }
            let light = 0.55 + if u < 0.0 { 0.2 } else { 0.0 } + if v < 0.0 { 0.25 } else { 0.0 };
            Some((f32::from(u.abs() * 1.3 + v.abs() < 0.3), light))
        }
        Shape::Key => {
            let ring = {
                let r2 = u * u + (v + 0.5) * (v + 0.5);
                (0.04..0.17).contains(&r2)
            };
            let shaft = u.abs() < 0.12 && (-0.15..0.95).contains(&v);
            let bit = (0.0..0.48).contains(&u) && ((0.45..0.6).contains(&v) || (0.75..0.92).contains(&v));
            if ring || shaft || bit { Some((0.0, 0.8 - 0.3 * u)) } else { None }
        }
        Shape::Lolly => {
            let stick = u.abs() < 0.1 && (0.4..0.98).contains(&v);
            let top = if v < -0.45 { ellipse(u, v + 0.45, 0.5, 0.5) } else { u.abs() < 0.5 && v < 0.42 };
            if top {
                let stripe = (v * 4.0 + 8.0) as i32 % 2 == 0;
                Some((if stripe { 0.0 } else { 0.55 }, 0.95 - 0.7 * u * u))
            } else if stick {
                Some((1.0, 0.85))
            } else {
                None
            }
        }
        Shape::Robot => {
            let head = u.abs() < 0.3 && (-0.95..-0.45).contains(&v);
            let body = u.abs() < 0.55 - 0.15 * v && (-0.38..0.5).contains(&v);
            let leg = (0.1..0.34).contains(&u.abs()) && (0.5..0.98).contains(&v);
            let eye = u.abs() < 0.24 && (-0.8..-0.65).contains(&v);
            let chest = u * u + (v + 0.02) * (v + 0.02) < 0.05;
            if eye || (body && chest) {
                Some((1.0, 1.0))
            } else if head || body || leg {
                Some((0.0, 0.9 - 0.45 * u.abs() - if leg { 0.2 } else { 0.0 }))
            } else {
                None
            }
        }
    }
}

/// Light on a ball of a radius that is lit from the upper left.
fn ball(u: f32, v: f32, radius: f32) -> Option<f32> {
    let (x, y) = (u / radius, v / radius);
    let z2 = 1.0 - x * x - y * y;
    if z2 < 0.0 {
        return None;
    }
    let facing = (-0.45 * x - 0.6 * y + 0.66 * z2.sqrt()).max(0.0);
    Some(0.4 + 0.6 * facing)
}

fn ellipse(u: f32, v: f32, a: f32, b: f32) -> bool {
    (u / a) * (u / a) + (v / b) * (v / b) < 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_an_object_with_room_around_it() {
        for (shape, sprite) in Shape::ALL.iter().zip(sprites()) {
            let table = sprite.level(0);
            let covered = table.iter().filter(|t| t.covered).count();
            assert!((300..3600).contains(&covered), "{shape:?} covers {covered} of 4096");
            for corner in [0, SIDE - 1, SIDE * (SIDE - 1), SIDE * SIDE - 1] {
                assert!(!table[corner].covered, "{shape:?}");
            }
            // Still there when it is small.
            assert!(sprite.level(3).iter().any(|t| t.covered), "{shape:?}");
        }
    }
}
