//! The choice between the ways to compute a convolution, by shape and precision alone.

use super::shape::ConvShape;
use super::winograd::{self, Pass, Variant};
use super::{implicit, winograd::suits};
use crate::kernels::precision::Precision;

/// The tiles that Winograd's algorithm uses for a pass, if it is the way to go. Where sums must be as good as direct
/// ones, only the small tile is.
fn tiles(precision: Precision, shape: &ConvShape, pass: Pass) -> Option<Variant> {
    if !suits(shape) {
        return None;
    }
    match precision {
        Precision::F32Exact => winograd::preferred(shape, pass).map(|_| Variant::F2),
        _ => winograd::preferred(shape, pass),
    }
}

/// `y` `[N, OH, OW, O]` from `x` `[N, H, W, C]` and `w` `[O, C/g, kh, kw]`.
pub(super) fn forward(precision: Precision, shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    match tiles(precision, shape, Pass::Forward) {
        Some(variant) => winograd::forward(variant, shape, x, w, y),
        None => implicit::forward(shape, x, w, y),
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
    match tiles(precision, shape, Pass::Data) {
        Some(variant) => winograd::backward_data(variant, shape, dy, w, dx, add),
        None => implicit::backward_data(shape, dy, w, dx, add),
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
    match tiles(precision, shape, Pass::Weight) {
        Some(variant) => winograd::backward_weight(variant, shape, x, dy, dw),
        None => implicit::backward_weight(shape, x, dy, dw),
    }
}
