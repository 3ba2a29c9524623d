//! Colour operations with the arithmetic of Pillow's `ImageEnhance`, `convert` and `ImageOps`, in place.

use super::Image;
use super::dispatch::vectorised;
use super::hsv::{BLOCK, Block, Sextants, hsv_to_rgb, rgb_to_hsv};

/// Pillow's 8-bit luma, ITU-R 601: `(19595 R + 38470 G + 7471 B + 0x8000) >> 16`.
#[inline]
pub fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 0x8000) >> 16) as u8
}

/// Pillow's `blend`: from `start` (factor 0) to `value` (factor 1) and beyond, clipped and truncated to a byte.
#[inline(always)]
fn blend(start: u8, value: u8, factor: f32) -> u8 {
    let difference = i32::from(value) - i32::from(start);
    let x = (f32::from(start) + factor * difference as f32).clamp(0.0, 255.0);
    // Adding 2^23 rounds to an integer in the low bits; unlike a cast, which saturates, this vectorises.
    const ROUND: f32 = 8_388_608.0;
    let rounded = x + ROUND;
    (rounded.to_bits() as u8).wrapping_sub(u8::from(rounded - ROUND > x))
}

#[inline(always)]
fn blend_kernel(data: &mut [u8], start: u8, factor: f32) {
    for value in data {
        *value = blend(start, *value, factor);
    }
}

/// Converts the pixels block by block, each taken apart into planes: loops without stride vectorise.
#[inline(always)]
fn by_blocks(data: &mut [u8], convert: impl Fn(&Block) -> Block) {
    for pixels in data.as_chunks_mut::<3>().0.chunks_mut(BLOCK) {
        let mut block: Block = [[0; BLOCK]; 3];
        let [r, g, b] = &mut block;
        for ((pixel, r), (g, b)) in pixels.iter().zip(r).zip(g.iter_mut().zip(b)) {
            [*r, *g, *b] = *pixel;
        }
        let [r, g, b] = convert(&block);
        for ((pixel, &r), (&g, &b)) in pixels.iter_mut().zip(&r).zip(g.iter().zip(&b)) {
            *pixel = [r, g, b];
        }
    }
}

#[inline(always)]
fn saturation_kernel(data: &mut [u8], factor: f32) {
    by_blocks(data, |block| {
        let [r, g, b] = block;
        let mut out = *block;
        for i in 0..BLOCK {
            let gray = luma([r[i], g[i], b[i]]);
            out[0][i] = blend(gray, r[i], factor);
            out[1][i] = blend(gray, g[i], factor);
            out[2][i] = blend(gray, b[i], factor);
        }
        out
    });
}

#[inline(always)]
fn turn_kernel(data: &mut [u8], sextants: &Sextants) {
    by_blocks(data, |block| hsv_to_rgb(&rgb_to_hsv(block), sextants));
}

#[inline(always)]
fn luma_sum_kernel(data: &[u8], sum: &mut u64) {
    for block in data.as_chunks::<3>().0.chunks(1 << 16) {
        *sum += u64::from(block.iter().map(|&pixel| u32::from(luma(pixel))).sum::<u32>());
    }
}

vectorised!(fn turn_all = turn_kernel(data: &mut [u8], sextants: &Sextants));
vectorised!(fn blend_all = blend_kernel(data: &mut [u8], start: u8, factor: f32));
vectorised!(fn saturate_all = saturation_kernel(data: &mut [u8], factor: f32));
vectorised!(fn luma_sum = luma_sum_kernel(data: &[u8], sum: &mut u64));

/// Blends with black: 0 gives black, 1 the image.
pub fn adjust_brightness(image: &mut Image, factor: f64) {
    blend_all(&mut image.data, 0, factor as f32);
}

/// Blends with the mean luma of the whole image (rounded): 0 gives one flat gray, 1 the image.
pub fn adjust_contrast(image: &mut Image, factor: f64) {
    let mut sum = 0;
    if image.channels == 3 {
        luma_sum(&image.data, &mut sum);
    } else {
        sum = image.data.iter().map(|&v| u64::from(v)).sum();
    }
    let mean = (sum as f64 / (image.width * image.height) as f64 + 0.5) as u8;
    blend_all(&mut image.data, mean, factor as f32);
}

/// Blends every pixel with its luma: 0 gives a gray image, 1 the image. A gray image stays as it is.
pub fn adjust_saturation(image: &mut Image, factor: f64) {
    if image.channels == 3 {
        saturate_all(&mut image.data, factor as f32);
    }
}

/// Turns the hue by `shift` of the colour wheel, -0.5 to 0.5, through Pillow's 8-bit HSV. The round trip loses a
/// little even for 0. A gray image stays as it is.
pub fn adjust_hue(image: &mut Image, shift: f64) {
    if image.channels != 3 {
        return;
    }
    let shift = (shift * 255.0) as i32 as u8;
    turn_all(&mut image.data, &Sextants::turned(shift));
}

/// Replaces every pixel by its luma; the number of channels stays.
pub fn grayscale(image: &mut Image) {
    if image.channels == 3 {
        for pixel in image.data.as_chunks_mut::<3>().0 {
            *pixel = [luma(*pixel); 3];
        }
    }
}

/// Inverts the values that are at least `threshold` (the papers' 0.5 is 128).
pub fn solarize(image: &mut Image, threshold: u8) {
    for value in &mut image.data {
        *value = if *value >= threshold { 255 - *value } else { *value };
    }
}
