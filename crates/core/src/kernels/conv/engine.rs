//! The choice between the ways to compute a convolution, by shape and precision alone.

use super::implicit;
use super::shape::ConvShape;
use super::winograd::{self, Variant};
use crate::kernels::precision::Precision;

/// The tiles that Winograd's algorithm uses, if it is the way to go: not where products of rounded operands are. Where
/// sums must be as good as direct ones, only the small tile is.
fn tiles(precision: Precision, shape: &ConvShape) -> Option<Variant> {
    if implicit::rounds(precision, shape) {
        return None;
    }
    let fastest = winograd::preferred(shape)?;
    Some(if precision == Precision::F32Exact { Variant::F2 } else { fastest })
}

/// `y` `[N, OH, OW, O]` from `x` `[N, H, W, C]` and `w` `[O, C/g, kh, kw]`.
pub(super) fn forward(precision: Precision, shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    match tiles(precision, shape) {
        Some(variant) => winograd::forward(variant, shape, x, w, y),
        None => implicit::forward(precision, shape, x, w, y),
    }
}

/// `dx` from `dy`, or added to `dx`.
pub(super) fn backward_data(
    precision: Precision,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    match tiles(precision, shape) {
        Some(variant) => winograd::backward_data(variant, shape, dy, w, dx, add),
        None => implicit::backward_data(precision, shape, dy, w, dx, add),
    }
}

/// `dw` `[O, C/g, kh, kw]`.
pub(super) fn backward_weight(
    precision: Precision,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) {
    match tiles(precision, shape) {
        Some(variant) => winograd::backward_weight(variant, shape, x, dy, dw),
        None => implicit::backward_weight(precision, shape, x, dy, dw),
    }
}
