//! Antialiased resizing, to the bit as Pillow's `Image.resize` on 8-bit images.
//!
//! Two passes, horizontal then vertical, each a weighted sum with 22-bit fixed-point weights and an 8-bit result. The
//! filter's support grows with the scale when shrinking, which is what "antialias" means. The order is that of Pillow
//! up to 12, with which the published recipes ran; Pillow 13 runs the vertical pass first where the height shrinks more,
//! which moves single bytes.

use serde::{Deserialize, Serialize};

use super::dispatch::vectorised;
use super::{CropBox, Image};
use crate::{Error, Result};

/// Fraction bits of a weight: 32 minus 8 for the pixel and 2 for overshoot.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);
/// Larger results are refused rather than allocated (bytes).
const MAX_BYTES: usize = 1 << 30;

/// The resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Triangle of radius 1; torchvision's default.
    #[default]
    Bilinear,
    /// Keys' cubic with a = -0.5, radius 2.
    Bicubic,
}

impl Interpolation {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
        }
    }
}

/// For every output position: the first input position, the number of taps and the fixed-point weights.
struct Taps {
    bounds: Vec<(usize, usize)>,
    /// `size` weights per output position, those behind its last tap zero.
    weights: Vec<i32>,
    /// The greatest number of taps.
    size: usize,
}

impl Taps {
    /// Taps that map `low..high` of an axis of `input` pixels to `output` pixels.
    fn new(input: usize, low: f32, high: f32, output: usize, filter: Interpolation) -> Self {
        let scale = f64::from(high - low) / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let center = |out: usize| f64::from(low) + (out as f64 + 0.5) * scale;
        let bounds: Vec<(usize, usize)> = (0..output)
            .map(|out| {
                // A cast truncates towards zero and saturates at zero, as the bound at the image's edge wants.
                let first = ((center(out) - support + 0.5) as usize).min(input.saturating_sub(1));
                let last = ((center(out) + support + 0.5) as usize).min(input);
                (first, last.saturating_sub(first))
            })
            .collect();
        let size = bounds.iter().map(|&(_, count)| count).max().unwrap_or(0).max(1);
        let mut weights = vec![0; output * size];
        let mut exact = vec![0.0; size];
        let outputs = weights.chunks_exact_mut(size).zip(&bounds).enumerate();
        for (out, (weights, &(first, count))) in outputs {
            let mut sum = 0.0;
            for (x, w) in exact[..count].iter_mut().enumerate() {
                *w = filter.weight(((x + first) as f64 - center(out) + 0.5) * (1.0 / filter_scale));
                sum += *w;
            }
            for (w, fixed) in exact[..count].iter().zip(weights) {
                let w = if sum == 0.0 { *w } else { w / sum };
                // Rounds half away from zero.
                *fixed = (w * f64::from(1u32 << PRECISION) + 0.5f64.copysign(w)) as i32;
            }
        }
        Self { bounds, weights, size }
    }

    fn positions(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.size);
        self.bounds.iter().zip(weights).map(|(&(first, count), w)| (first, &w[..count]))
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// One row of RGB. Its pixels go through `wide`, padded to four bytes, and come out in `sums`, padded too: four values
/// are one vector, three are not, and a fourth that is never stored would be optimised away. `wide` is `taps.size`
/// pixels longer than the row, because every output reads that many (the surplus with weight zero): loops of changing
/// length are mispredicted.
#[inline(always)]
fn horizontal_rgb_kernel(
    row: &[u8],
    wide: &mut [[u8; 4]],
    sums: &mut [[i32; 4]],
    taps: &Taps,
    out: &mut [u8],
) {
    for (wide, &[r, g, b]) in wide.iter_mut().zip(row.as_chunks::<3>().0) {
        *wide = [r, g, b, 0];
    }
    // A constant length is unrolled; these are the usual ones.
    match taps.size {
        2 => weigh(wide, taps, 2, sums),
        3 => weigh(wide, taps, 3, sums),
        4 => weigh(wide, taps, 4, sums),
        5 => weigh(wide, taps, 5, sums),
        6 => weigh(wide, taps, 6, sums),
        7 => weigh(wide, taps, 7, sums),
        8 => weigh(wide, taps, 8, sums),
        9 => weigh(wide, taps, 9, sums),
        10 => weigh(wide, taps, 10, sums),
        size => weigh(wide, taps, size, sums),
    }
    for (pixel, &[r, g, b, _]) in out.as_chunks_mut::<3>().0.iter_mut().zip(sums.iter()) {
        *pixel = [r, g, b].map(to_byte);
    }
}

#[inline(always)]
fn weigh(wide: &[[u8; 4]], taps: &Taps, size: usize, out: &mut [[i32; 4]]) {
    let outputs = taps.bounds.iter().zip(taps.weights.chunks_exact(size));
    for ((&(first, _), weights), out) in outputs.zip(out) {
        let mut sums = [HALF; 4];
        for (source, &weight) in wide[first..first + size].iter().zip(weights) {
            let source = source.map(i32::from);
            for c in 0..4 {
                sums[c] += source[c] * weight;
            }
        }
        *out = sums;
    }
}

fn horizontal_gray(row: &[u8], taps: &Taps, out: &mut [u8]) {
    for ((first, weights), out) in taps.positions().zip(out) {
        let products = row[first..].iter().zip(weights).map(|(&value, &weight)| i32::from(value) * weight);
        *out = to_byte(HALF + products.sum::<i32>());
    }
}

/// Columns summed at a time, so that the sums stay in registers.
const LANES: usize = 32;

/// One output row: the weighted sum of `weights.len()` rows of `width` bytes that lie one after another in `rows`.
#[inline(always)]
fn vertical_kernel(rows: &[u8], width: usize, weights: &[i32], out: &mut [u8]) {
    let mut at = 0;
    for out in out.chunks_mut(LANES) {
        let mut sums = [HALF; LANES];
        for (row, &weight) in rows.chunks_exact(width).zip(weights) {
            let row = &row[at..at + out.len()];
            if let Ok(row) = <&[u8; LANES]>::try_from(row) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            } else {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
        }
        at += out.len();
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = to_byte(sum);
        }
    }
}

vectorised!(fn horizontal_rgb = horizontal_rgb_kernel(
    row: &[u8], wide: &mut [[u8; 4]], sums: &mut [[i32; 4]], taps: &Taps, out: &mut [u8],
));
vectorised!(fn vertical = vertical_kernel(rows: &[u8], width: usize, weights: &[i32], out: &mut [u8]));

/// Resizes the float box `area` = (left, top, right, bottom), in pixels of the crop `frame`, to `width` x `height`. The
/// filter sees the pixels of `frame` and none outside.
fn resample(
    image: &Image,
    frame: CropBox,
    area: [f32; 4],
    (width, height): (usize, usize),
    filter: Interpolation,
) -> Result<Image> {
    let c = image.channels;
    let fits = width > 0 && height > 0 && width.saturating_mul(height).saturating_mul(c) <= MAX_BYTES;
    if !fits {
        return Err(Error::shape("resize", "[H, W, C] of 1 byte to 1 GiB", &[height, width, c]));
    }
    frame.check(image)?;
    let [left, top, right, bottom] = area;
    let inside = left >= 0.0 && top >= 0.0 && right <= frame.width as f32 && bottom <= frame.height as f32;
    if !(inside && left < right && top < bottom) {
        return Err(Error::config(
            "box",
            format!("{area:?} is empty or outside {}x{}", frame.width, frame.height),
        ));
    }
    let across = width != frame.width || left != 0.0 || right != width as f32;
    let down = height != frame.height || top != 0.0 || bottom != height as f32;

    let rows_taps = down.then(|| Taps::new(frame.height, top, bottom, height, filter));
    // Only the rows that the vertical pass reads.
    let (first_row, end_row) = match &rows_taps {
        Some(taps) => (
            taps.bounds.first().map_or(0, |b| b.0),
            taps.bounds.last().map_or(frame.height, |b| b.0 + b.1).min(frame.height),
        ),
        None => (0, frame.height),
    };
    let stride = image.width * c;
    let source_row = |y: usize| {
        let start = (frame.y + y) * stride + frame.x * c;
        &image.data[start..start + frame.width * c]
    };
    let mut between = vec![0u8; (end_row - first_row) * width * c];
    let columns_taps = across.then(|| Taps::new(frame.width, left, right, width, filter));
    let mut wide = vec![[0u8; 4]; frame.width + columns_taps.as_ref().map_or(0, |taps| taps.size)];
    let mut sums = vec![[0i32; 4]; width];
    for (y, out) in (first_row..end_row).zip(between.chunks_exact_mut(width * c)) {
        match &columns_taps {
            Some(taps) if c == 3 => horizontal_rgb(source_row(y), &mut wide, &mut sums, taps, out),
            Some(taps) => horizontal_gray(source_row(y), taps, out),
            None => out.copy_from_slice(source_row(y)),
        }
    }
    let data = match rows_taps {
        None => between,
        Some(taps) => {
            let mut data = vec![0u8; width * height * c];
            for ((first, weights), out) in taps.positions().zip(data.chunks_exact_mut(width * c)) {
                vertical(&between[(first - first_row) * width * c..], width * c, weights, out);
            }
            data
        }
    };
    Image::new(width, height, c, data)
}

/// Resizes the whole image to `width` x `height` (Pillow's `resize`).
///
/// # Errors
/// A side of 0, or a result above 1 GiB.
pub fn resize(image: &Image, width: usize, height: usize, filter: Interpolation) -> Result<Image> {
    resize_crop(image, CropBox::whole(image), width, height, filter)
}

/// Resizes the box (left, top, right, bottom), in pixels and not necessarily whole ones, to `width` x `height`. The
/// filter sees pixels outside the box (Pillow's `resize(size, box=...)`).
///
/// # Errors
/// As [`resize`]; a box that is empty or not inside the image.
pub fn resize_box(
    image: &Image,
    area: [f32; 4],
    width: usize,
    height: usize,
    filter: Interpolation,
) -> Result<Image> {
    resample(image, CropBox::whole(image), area, (width, height), filter)
}

/// Crops, then resizes to `width` x `height`: the filter sees no pixel outside the crop (torchvision's
/// `resized_crop`).
///
/// # Errors
/// As [`resize`]; a crop that is empty or not inside the image.
pub fn resize_crop(
    image: &Image,
    crop: CropBox,
    width: usize,
    height: usize,
    filter: Interpolation,
) -> Result<Image> {
    let area = [0.0, 0.0, crop.width as f32, crop.height as f32];
    resample(image, crop, area, (width, height), filter)
}

/// Resizes so that the shorter side becomes `side`; the longer one is `side * longer / shorter`, rounded down
/// (torchvision's `Resize(side)`).
///
/// # Errors
/// As [`resize`].
pub fn resize_shorter(image: &Image, side: usize, filter: Interpolation) -> Result<Image> {
    let (short, long) = (image.width.min(image.height).max(1), image.width.max(image.height));
    let longer = side.saturating_mul(long) / short;
    let (width, height) = if image.width <= image.height { (side, longer) } else { (longer, side) };
    resize(image, width, height, filter)
}
