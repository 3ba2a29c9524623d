//! The products at a precision.

use super::Extents;
use super::bf16::{self, Way};
use crate::kernels::precision::Precision;

/// `y = x w^T + bias` for so many rows, inputs and outputs.
pub(crate) fn linear(
    precision: Precision,
    (rows, c, o): Extents,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    match Way::of(precision) {
        Some(way) => bf16::linear(way, (rows, c, o), x, w, bias, y),
        None => super::linear(rows, c, o, x, w, bias, y),
    }
}

/// `dx = dy w`, or added to `dx`.
pub(crate) fn linear_backward_data(
    precision: Precision,
    (rows, c, o): Extents,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    match Way::of(precision) {
        Some(way) => bf16::backward_data(way, (rows, c, o), dy, w, dx, add),
        None => super::linear_backward_data(rows, c, o, dy, w, dx, add),
    }
}

/// `dw = dy^T x`.
pub(crate) fn linear_backward_weight(
    precision: Precision,
    (rows, c, o): Extents,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) {
    match Way::of(precision) {
        Some(way) => bf16::backward_weight(way, (rows, c, o), x, dy, dw),
        None => super::linear_backward_weight(rows, c, o, x, dy, dw),
    }
}
