//! The choice between the engines, by shape alone.

use super::geometry::Geometry;
use super::simd::Kernels;
use super::{direct, im2col, simd};

/// The tiles to use for `geo`, or nothing if the matrix product is faster: it is where one pixel's patch is long enough
/// to fill it (measured on Zen 4: from 128 channels of 3x3, from 64 of 1x1).
fn tiles(geo: &Geometry) -> Option<&'static Kernels> {
    let longest = if geo.kh * geo.kw == 1 { 64 } else { 1152 };
    if geo.depth() < longest && direct::suits(geo) { simd::available().next() } else { None }
}

/// Output `[N, O, OH, OW]` from the input `[N, C, H, W]` and the weight `[O, C/g, kh, kw]`.
pub(super) fn forward(geo: &Geometry, x: &[f32], w: &[f32]) -> Vec<f32> {
    match tiles(geo) {
        Some(kernels) => direct::forward(kernels, geo, x, w),
        None => im2col::forward(geo, x, w),
    }
}

/// Input gradient `[N, C, H, W]` from the output gradient `[N, O, OH, OW]`.
pub(super) fn backward_data(geo: &Geometry, dy: &[f32], w: &[f32]) -> Vec<f32> {
    let dx = tiles(geo).and_then(|kernels| direct::backward_data(kernels, geo, dy, w));
    dx.unwrap_or_else(|| im2col::backward_data(geo, dy, w))
}

/// Weight gradient `[O, C/g, kh, kw]`.
pub(super) fn backward_weight(geo: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    match tiles(geo) {
        Some(kernels) => direct::backward_weight(kernels, geo, x, dy),
        None => im2col::backward_weight(geo, x, dy),
    }
}
