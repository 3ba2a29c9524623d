//! Wall and floor patterns as small tables: how much of the second colour each texel has, in halved sizes for the
//! distance. They are made once, by integer and IEEE arithmetic only.

use std::sync::LazyLock;

use crate::look::Pattern;

/// Side of the largest table.
pub const SIDE: usize = 64;
/// How many tables there are, down to one texel.
pub const LEVELS: usize = 7;

/// A pattern in all sizes.
pub struct Texture {
    levels: [Vec<u8>; LEVELS],
}

impl Texture {
    /// The table of a size: its texels row by row, `SIDE >> level` to a side.
    #[inline]
    pub fn level(&self, level: usize) -> &[u8] {
        &self.levels[level]
    }

    fn new(pattern: Pattern) -> Self {
        let mut levels: [Vec<u8>; LEVELS] = Default::default();
        // Four samples to a texel: edges are soft near by too.
        let double = 2 * SIDE;
        let fine: Vec<u8> = (0..double * double)
            .map(|i| {
                let at = |k: usize| (k as f32 + 0.5) / double as f32;
                (255.0 * mix(pattern, at(i % double), at(i / double)).clamp(0.0, 1.0)) as u8
            })
            .collect();
        levels[0] = halve(&fine, double);
        for level in 1..LEVELS {
            levels[level] = halve(&levels[level - 1], SIDE >> (level - 1));
        }
        Self { levels }
    }
}

static TEXTURES: LazyLock<Vec<Texture>> =
    LazyLock::new(|| Pattern::ALL.into_iter().map(Texture::new).collect());

/// All textures, by the pattern's number.
pub fn textures() -> &'static [Texture] {
    &TEXTURES
}

/// The table level at which one texel is about one of `pixels` pixels to a cell.
#[inline]
pub fn level_for(pixels: f32) -> usize {
    let texels = (SIDE as f32 / pixels.max(1.0)) as u32;
    (texels.max(1).ilog2() as usize).min(LEVELS - 1)
}

fn halve(fine: &[u8], side: usize) -> Vec<u8> {
    let half = side / 2;
    (0..half * half)
        .map(|i| {
            let at = 2 * (i / half) * side + 2 * (i % half);
            let sum: u32 = [at, at + 1, at + side, at + side + 1].iter().map(|&k| u32::from(fine[k])).sum();
            ((sum + 2) / 4) as u8
        })
        .collect()
}

/// The share of the second colour at a place of the unit square, v running down.
fn mix(pattern: Pattern, u: f32, v: f32) -> f32 {
    let (x, y) = (u - 0.5, v - 0.5);
    let grain = 0.12 * noise(u * 16.0, v * 16.0, 16);
    match pattern {
        Pattern::Brick => {
            let row = (v * 6.0) as u32;
            let offset = if row.is_multiple_of(2) { 0.0 } else { 0.5 };
            let across = fraction(u * 3.0 + offset);
            let joint = fraction(v * 6.0) < 0.14 || across < 0.07;
            let brick = hash((u * 3.0 + offset) as u32 % 3, row);
            if joint { 1.0 } else { 0.18 * brick + grain }
        }
        Pattern::Stone => 0.6 * noise(u * 4.0, v * 4.0, 4) + 0.3 * noise(u * 8.0, v * 8.0, 8) + grain,
        Pattern::Planks => {
            let board = (u * 5.0) as u32;
            let joint = fraction(u * 5.0) < 0.08 || (v - hash(board, 7)).abs() < 0.012;
            if joint { 1.0 } else { 0.3 * hash(board, 3) + 0.25 * noise(u * 32.0, v * 4.0, 32) }
        }
        Pattern::Checker => f32::from((u < 0.5) != (v < 0.5)),
        Pattern::Stripes => f32::from(fraction(u * 4.0) < 0.5) * (0.85 + grain),
        Pattern::Slant => f32::from(fraction((u + v) * 3.0) < 0.5) * (0.85 + grain),
        Pattern::Panel => {
            let edge = x.abs().max(y.abs());
            if edge > 0.46 || (0.34..0.38).contains(&edge) { 1.0 } else { grain }
        }
        Pattern::Tiles => {
            let tile = hash((u * 2.0) as u32, (v * 2.0) as u32 + 9);
            if fraction(u * 2.0) < 0.06 || fraction(v * 2.0) < 0.06 { 1.0 } else { 0.35 * tile + grain }
        }
        Pattern::Dots => {
            let (a, b) = (fraction(u * 4.0) - 0.5, fraction(v * 4.0) - 0.5);
            f32::from(a * a + b * b < 0.09)
        }
        Pattern::Door => door(u, v),
        _ => picture(pattern, x, y),
    }
}

/// Pictures have a frame, so that they read as such on any wall.
fn picture(pattern: Pattern, x: f32, y: f32) -> f32 {
    let (a, b) = (x.abs(), y.abs());
    if a.max(b) > 0.46 {
        return 0.5;
    }
    f32::from(match pattern {
        Pattern::Disc => x * x + y * y < 0.11,
        Pattern::Rings => fraction((x * x + y * y).sqrt() * 6.0) < 0.5 && x * x + y * y < 0.16,
        Pattern::Cross => a.min(b) < 0.09 && a.max(b) < 0.36,
        Pattern::Diamond => a + b < 0.36,
        Pattern::Triangle => y < 0.3 && y > -0.36 && a < (y + 0.36) * 0.55,
        Pattern::Saltire => (a - b).abs() < 0.11 && a.max(b) < 0.36,
        _ => b < 0.36 && a < 0.36 && fraction((y + 0.36) * 4.17) < 0.55,
    })
}

fn door(u: f32, v: f32) -> f32 {
    let frame = !(0.07..=0.93).contains(&u) || v < 0.06;
    let knob = (u - 0.82) * (u - 0.82) + (v - 0.55) * (v - 0.55) < 0.003;
    let inset = |low: f32, high: f32| {
        let inside = u > 0.18 && u < 0.72 && v > low && v < high;
        let core = u > 0.22 && u < 0.68 && v > low + 0.04 && v < high - 0.04;
        inside && !core
    };
    f32::from(frame || knob || inset(0.14, 0.5) || inset(0.58, 0.92))
}

fn fraction(x: f32) -> f32 {
    x - x as i32 as f32
}

/// A number in `[0, 1)` from two integers.
fn hash(x: u32, y: u32) -> f32 {
    let mut h = x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77);
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    h = (h ^ (h >> 12)).wrapping_mul(0x297a_2d39);
    (h >> 8) as f32 / (1 << 24) as f32
}

/// Smooth noise over a lattice that repeats after `period`.
fn noise(x: f32, y: f32, period: u32) -> f32 {
    let (i, j) = (x as u32, y as u32);
    let (a, b) = (fraction(x), fraction(y));
    let (a, b) = (a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b));
    let at = |di: u32, dj: u32| hash((i + di) % period, (j + dj) % period + 100);
    let top = at(0, 0) + (at(1, 0) - at(0, 0)) * a;
    let bottom = at(0, 1) + (at(1, 1) - at(0, 1)) * a;
    top + (bottom - top) * b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sizes_are_there_and_have_one_mean() {
        for (pattern, texture) in Pattern::ALL.iter().zip(textures()) {
            let means: Vec<f32> = (0..LEVELS)
                .map(|level| {
                    let table = texture.level(level);
                    assert_eq!(table.len(), (SIDE >> level) * (SIDE >> level));
                    table.iter().map(|&t| f32::from(t)).sum::<f32>() / table.len() as f32
                })
                .collect();
            assert!(means.iter().all(|m| (m - means[0]).abs() < 2.0), "{pattern:?} {means:?}");
            assert!(means[0] > 2.0 && means[0] < 253.0, "{pattern:?} {means:?}");
        }
    }

    #[test]
    fn the_level_follows_the_size_on_screen() {
        assert_eq!([level_for(200.0), level_for(64.0), level_for(32.0), level_for(1.0)], [0, 0, 1, 6]);
        assert_eq!(level_for(0.0), 6);
    }
}
