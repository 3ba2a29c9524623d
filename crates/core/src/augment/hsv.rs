//! Pillow's 8-bit RGB and HSV conversions, with its mixture of single and double precision, on blocks of pixels.
//!
//! A block holds three planes, and each step is a branchless loop over it that the compiler vectorises; pixel by pixel
//! with branches is five times slower, most of it mispredicted sextants.

/// Pixels of a block.
pub(super) const BLOCK: usize = 64;

/// Three planes of bytes: R, G, B or H, S, V.
pub(super) type Block = [[u8; BLOCK]; 3];

/// For each 8-bit hue its sextant and the position in it, in [0, 1).
pub(super) struct Sextants {
    index: [u8; 256],
    fraction: [f32; 256],
}

impl Sextants {
    /// The table for hues turned by `shift`.
    pub(super) fn turned(shift: u8) -> Self {
        let mut table = Self { index: [0; 256], fraction: [0.0; 256] };
        for hue in 0..=255u8 {
            let scaled = f64::from(hue.wrapping_add(shift)) * 6.0 / 255.0;
            table.index[usize::from(hue)] = scaled as u8 % 6;
            table.fraction[usize::from(hue)] = scaled.fract() as f32;
        }
        table
    }
}

/// 2^52: adding it to a number in [0, 2^51) rounds to the nearest integer and leaves that in the low bits. Unlike a
/// cast, which saturates, this vectorises.
const ROUND: f64 = 4_503_599_627_370_496.0;

/// The integer part of a number in [0, 256).
#[inline(always)]
fn floor(x: f64) -> u8 {
    let rounded = x + ROUND;
    (rounded.to_bits() as u8).wrapping_sub(u8::from(rounded - ROUND > x))
}

/// From R, G, B to H, S, V, all in 0..=255.
#[inline(always)]
pub(super) fn rgb_to_hsv([r, g, b]: &Block) -> Block {
    let mut hue = [0.0f32; BLOCK];
    let mut saturation = [0.0f32; BLOCK];
    let [mut hues, mut saturations, mut values] = [[0u8; BLOCK]; 3];
    for i in 0..BLOCK {
        let [r, g, b] = [r[i], g[i], b[i]].map(i32::from);
        let (high, low) = (r.max(g).max(b), r.min(g).min(b));
        let range = (high - low).max(1) as f32;
        // Pillow's `bc - gc`, `2 + rc - bc` and `4 + gc - rc`: one of the two is the lowest channel's 1, so that each
        // is one rounded sum of a whole number and the middle channel's distance from the top.
        let middle = (high - (r + g + b - high - low)) as f32 / range;
        let r_first = r == high;
        let g_first = !r_first & (g == high);
        let (base, sign) = if high == low {
            (0.0, 0.0)
        } else if r_first {
            if b == low { (1.0, -1.0) } else { (-1.0, 1.0) }
        } else if g_first {
            if b == low { (1.0, 1.0) } else { (3.0, -1.0) }
        } else if r == low {
            (3.0, 1.0)
        } else {
            (5.0, -1.0)
        };
        hue[i] = base + sign * middle;
        saturation[i] = (high - low) as f32 / high.max(1) as f32;
        values[i] = high as u8;
    }
    for i in 0..BLOCK {
        // In [5/6, 11/6]: the remainder of the division by one is one subtraction.
        let turn = f64::from(hue[i]) / 6.0 + 1.0;
        let turn = if turn >= 1.0 { turn - 1.0 } else { turn } as f32;
        hues[i] = floor(f64::from(turn) * 255.0);
        saturations[i] = floor(f64::from(saturation[i]) * 255.0);
    }
    [hues, saturations, values]
}

/// From H, S, V to R, G, B; `sextants` may turn the hue on the way.
#[inline(always)]
pub(super) fn hsv_to_rgb([h, s, v]: &Block, sextants: &Sextants) -> Block {
    let mut index = [0u8; BLOCK];
    let mut fraction = [0.0f32; BLOCK];
    for i in 0..BLOCK {
        index[i] = sextants.index[usize::from(h[i])];
        fraction[i] = sextants.fraction[usize::from(h[i])];
    }
    let [mut p, mut q, mut t] = [[0u8; BLOCK]; 3];
    for i in 0..BLOCK {
        let fs = f32::from(s[i]) / 255.0;
        let value = f64::from(v[i]);
        // Pillow rounds ties up and this to even, but no such product is a tie.
        let round = |x: f64| (x + ROUND).to_bits() as u8;
        p[i] = round(value * (1.0 - f64::from(fs)));
        q[i] = round(value * (1.0 - f64::from(fs * fraction[i])));
        t[i] = round(value * (1.0 - f64::from(fs) * (1.0 - f64::from(fraction[i]))));
    }
    let mut rgb = [[0u8; BLOCK]; 3];
    // What each channel is in the six sextants.
    let channels = [[v, &q, &p, &p, &t, v], [&t, v, v, &q, &p, &p], [&p, &p, &t, v, v, &q]];
    for (out, sources) in rgb.iter_mut().zip(channels) {
        for (sextant, source) in (0..6u8).zip(sources) {
            for i in 0..BLOCK {
                // A mask, because a choice would become a branch.
                out[i] |= source[i] & 0u8.wrapping_sub(u8::from(index[i] == sextant));
            }
        }
    }
    rgb
}
