//! Colour spaces whose first channel is brightness and whose others are colour: the splits of *Contrastive Multiview
//! Coding* (Tian, Krishnan, Isola, 2020), with the constants of scikit-image, on which the official code stands.

/// CIE Lab under D65 and the 2° observer from sRGB bytes: L in `[0, 100]`, a and b within about ±110.
pub fn rgb_to_lab(pixel: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = pixel.map(linear);
    // sRGB's primaries; the white point divides at once.
    let x = (0.412453 * r + 0.357580 * g + 0.180423 * b) / 0.95047;
    let y = 0.212671 * r + 0.715160 * g + 0.072169 * b;
    let z = (0.019334 * r + 0.119193 * g + 0.950227 * b) / 1.08883;
    let [x, y, z] = [x, y, z].map(|t| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// sRGB's transfer function undone.
fn linear(byte: u8) -> f64 {
    let v = f64::from(byte) / 255.0;
    if v > 0.04045 { ((v + 0.055) / 1.055).powf(2.4) } else { v / 12.92 }
}

/// YCbCr of ITU-R 601 in its studio range: Y in `[16, 235]`, Cb and Cr in `[16, 240]`. Not rounded.
pub fn rgb_to_ycbcr(pixel: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = pixel.map(|v| f64::from(v) / 255.0);
    [
        16.0 + 65.481 * r + 128.553 * g + 24.966 * b,
        128.0 - 37.797 * r - 74.203 * g + 112.0 * b,
        128.0 + 112.0 * r - 93.786 * g - 18.214 * b,
    ]
}

/// SECAM's YDbDr: Y in `[0, 1]`, Db and Dr in `[-1.333, 1.333]`.
pub fn rgb_to_ydbdr(pixel: [u8; 3]) -> [f64; 3] {
    let [r, g, b] = pixel.map(|v| f64::from(v) / 255.0);
    [0.299 * r + 0.587 * g + 0.114 * b, -0.45 * r - 0.883 * g + 1.333 * b, -1.333 * r + 1.116 * g + 0.217 * b]
}

/// All pixels by `convert` (one of those above), as `[3, H, W]` of `(value - mean) / std`.
pub(super) fn planes(
    pixels: &[[u8; 3]],
    convert: fn([u8; 3]) -> [f64; 3],
    mean: &[f32],
    std: &[f32],
    out: &mut [f32],
) {
    let area = pixels.len();
    for (i, &pixel) in pixels.iter().enumerate() {
        for (c, value) in convert(pixel).into_iter().enumerate() {
            out[c * area + i] = ((value - f64::from(mean[c])) / f64::from(std[c])) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: [f64; 3], expected: [f64; 3]) {
        for (g, e) in got.into_iter().zip(expected) {
            assert!((g - e).abs() < 1e-4, "{got:?}, expected {expected:?}");
        }
    }

    /// scikit-image's values.
    #[test]
    fn values_are_scikit_image_s() {
        close(rgb_to_lab([255, 0, 0]), [53.2406, 80.0923, 67.2028]);
        close(rgb_to_lab([0, 255, 0]), [87.7351, -86.1830, 83.1797]);
        close(rgb_to_lab([0, 0, 255]), [32.2957, 79.1856, -107.8573]);
        close(rgb_to_lab([10, 20, 30]), [5.9485, -0.6693, -8.1364]);
        close(rgb_to_lab([255; 3]), [100.0, -0.0025, 0.0047]);
        close(rgb_to_ycbcr([255, 0, 0]), [81.481, 90.203, 240.0]);
        close(rgb_to_ycbcr([10, 20, 30]), [31.5876, 133.8744, 122.8936]);
        close(rgb_to_ydbdr([255; 3]), [1.0, 0.0, 0.0]);
        close(rgb_to_ydbdr([0, 0, 255]), [0.114, 1.333, 0.217]);
    }
}
