//! Gaussian blur, the two kinds published recipes used.

use serde::{Deserialize, Serialize};

use super::Image;
use super::dispatch::vectorised;
use crate::{Error, Result};

/// How a Gaussian blur is computed. The two differ by several grey levels, so a recipe names its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlurKernel {
    /// [`pil_blur`]: MoCo v2, SwAV, DINO and the other PyTorch recipes.
    #[default]
    Pil,
    /// [`true_blur`] with a tenth of the image's side as taps, made odd: SimCLR and BYOL (23 taps at 224).
    True,
}

/// Largest accepted standard deviation, in pixels.
pub(super) const MAX_SIGMA: f64 = 1000.0;

fn check_sigma(sigma: f64) -> Result<()> {
    if sigma > 0.0 && sigma <= MAX_SIGMA {
        return Ok(());
    }
    Err(Error::config("sigma", format!("{sigma} is not in (0, {MAX_SIGMA}]")))
}

/// `rows` rows of `columns` elements of `C` values, turned into `columns` rows.
fn transpose<T: Copy, const C: usize>(data: &[T], columns: usize, out: &mut Vec<T>) {
    out.clear();
    let pixels = data.as_chunks::<C>().0;
    for x in 0..columns {
        for pixel in pixels[x..].iter().step_by(columns) {
            out.extend_from_slice(pixel);
        }
    }
}

fn transpose_any<T: Copy>(data: &[T], columns: usize, channels: usize, out: &mut Vec<T>) {
    match channels {
        3 => transpose::<T, 3>(data, columns, out),
        _ => transpose::<T, 1>(data, columns, out),
    }
}

/// One box blur along the rows' axis: every element becomes the mean over `radius` (with its fraction) elements before
/// and behind, in 24-bit fixed point, the first and last row repeated outside. `sums` is scratch of one row.
struct BoxBlur {
    radius: usize,
    /// Weight of an element inside the box, and of the two at its fractional ends.
    inner: u32,
    outer: u32,
}

impl BoxBlur {
    fn new(radius: f32) -> Self {
        let whole = radius as usize;
        let inner = ((1u32 << 24) as f32 / (radius * 2.0 + 1.0)) as u32;
        let outer = ((1u32 << 24).saturating_sub((whole as u32 * 2 + 1) * inner)) / 2;
        Self { radius: whole, inner, outer }
    }

    fn run(&self, data: &[u8], width: usize, sums: &mut [u32], out: &mut [u8]) {
        let last = (data.len() / width).saturating_sub(1);
        let row = |y: usize| &data[y.min(last) * width..][..width];
        // The sum for the row before the first: `radius + 1` times the first row, then the next `radius` rows.
        for (sum, &v) in sums.iter_mut().zip(row(0)) {
            *sum = u32::from(v) * (self.radius as u32 + 1);
        }
        for y in 0..self.radius {
            for (sum, &v) in sums.iter_mut().zip(row(y)) {
                *sum += u32::from(v);
            }
        }
        for (y, out) in out.chunks_exact_mut(width).enumerate() {
            let before = row(y.saturating_sub(self.radius + 1));
            let weights = (self.inner, self.outer);
            box_row(before, row(y + self.radius), row(y + self.radius + 1), weights, sums, out);
        }
    }
}

#[inline(always)]
fn box_row_kernel(
    before: &[u8],
    entering: &[u8],
    beyond: &[u8],
    (inner, outer): (u32, u32),
    sums: &mut [u32],
    out: &mut [u8],
) {
    let rows = before.iter().zip(entering).zip(beyond);
    for ((((&before, &entering), &beyond), sum), out) in rows.zip(sums).zip(out) {
        *sum = *sum + u32::from(entering) - u32::from(before);
        let ends = (u32::from(before) + u32::from(beyond)) * outer;
        *out = ((*sum * inner + ends + (1 << 23)) >> 24) as u8;
    }
}

vectorised!(fn box_row = box_row_kernel(
    before: &[u8], entering: &[u8], beyond: &[u8], weights: (u32, u32), sums: &mut [u32], out: &mut [u8],
));

/// Radius of the box whose threefold application comes nearest to a Gaussian of `sigma` (Gwosdek et al., "Theoretical
/// foundations of Gaussian convolution by extended box filtering", equations 7, 11 and 14), in Pillow's precision.
fn box_radius(sigma: f32) -> f32 {
    let variance = sigma * sigma / 3.0;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let fraction = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
    whole + fraction / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)))
}

/// Pillow's `ImageFilter.GaussianBlur(radius=sigma)`: three box blurs along each axis, `sigma` in pixels.
///
/// # Errors
/// `sigma` outside (0, 1000].
pub fn pil_blur(image: &mut Image, sigma: f64) -> Result<()> {
    check_sigma(sigma)?;
    let blur = BoxBlur::new(box_radius(sigma as f32));
    let (width, height, c) = (image.width, image.height, image.channels);
    let mut sums = vec![0; width.max(height) * c];
    let mut turned = Vec::with_capacity(image.data.len());
    let mut spare = vec![0; image.data.len()];
    let mut thrice = |data: &mut Vec<u8>, line: usize| {
        for _ in 0..3 {
            blur.run(data, line, &mut sums[..line], &mut spare);
            std::mem::swap(data, &mut spare);
        }
    };
    transpose_any(&image.data, width, c, &mut turned);
    thrice(&mut turned, height * c);
    let mut data = std::mem::take(&mut image.data);
    transpose_any(&turned, height, c, &mut data);
    thrice(&mut data, width * c);
    image.data = data;
    Ok(())
}

/// Index `i - before` of an axis of `length`, reflected at the ends without repeating them.
fn reflect(i: usize, before: usize, length: usize) -> usize {
    if length == 1 {
        return 0;
    }
    let period = 2 * (length - 1);
    let at = (i + period * before.div_ceil(period) - before) % period;
    if at < length { at } else { period - at }
}

#[inline(always)]
fn add_row_kernel(row: &[f32], weight: f32, out: &mut [f32]) {
    for (out, &v) in out.iter_mut().zip(row) {
        *out += weight * v;
    }
}

vectorised!(fn add_row = add_row_kernel(row: &[f32], weight: f32, out: &mut [f32]));

/// Filters along the rows' axis with reflected ends.
fn filter_rows(data: &[f32], width: usize, taps: &[f32], out: &mut [f32]) {
    let height = data.len() / width;
    for (y, out) in out.chunks_exact_mut(width).enumerate() {
        out.fill(0.0);
        for (k, &weight) in taps.iter().enumerate() {
            let from = reflect(y + k, taps.len() / 2, height);
            add_row(&data[from * width..][..width], weight, out);
        }
    }
}

/// A separable Gaussian of `taps` (odd) coefficients and standard deviation `sigma` in pixels, ends reflected, rounded
/// to bytes (torchvision's `gaussian_blur`). SimCLR's TensorFlow code pads with zeros instead.
///
/// # Errors
/// An even number of taps, or one above 2001; `sigma` outside (0, 1000].
pub fn true_blur(image: &mut Image, taps: usize, sigma: f64) -> Result<()> {
    check_sigma(sigma)?;
    if taps.is_multiple_of(2) || taps > 2001 {
        return Err(Error::config("taps", format!("{taps} is even or above 2001")));
    }
    let half = (taps / 2) as f32;
    let kernel: Vec<f32> = (0..taps)
        .map(|i| {
            let x = (i as f32 - half) / sigma as f32;
            (-0.5 * x * x).exp()
        })
        .collect();
    let sum: f32 = kernel.iter().sum();
    let kernel: Vec<f32> = kernel.iter().map(|k| k / sum).collect();
    let (width, height, c) = (image.width, image.height, image.channels);
    let values: Vec<f32> = image.data.iter().map(|&v| f32::from(v)).collect();
    let mut turned = Vec::with_capacity(values.len());
    transpose_any(&values, width, c, &mut turned);
    let mut filtered = values;
    filter_rows(&turned, height * c, &kernel, &mut filtered);
    transpose_any(&filtered, height, c, &mut turned);
    filter_rows(&turned, width * c, &kernel, &mut filtered);
    for (out, &v) in image.data.iter_mut().zip(&filtered) {
        // Adding 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
        *out = (v.clamp(0.0, 255.0) + 8_388_608.0).to_bits() as u8;
    }
    Ok(())
}

/// Taps of [`BlurKernel::True`] for an image: a tenth of the shorter side, made odd upwards as SimCLR's code does.
pub(super) fn taps_for(image: &Image) -> usize {
    image.width.min(image.height) / 10 / 2 * 2 + 1
}
