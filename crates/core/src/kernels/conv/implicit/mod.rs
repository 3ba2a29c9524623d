//! Direct convolution for every shape: products whose left operand is read where it lies, never a column matrix of the
//! batch.
//!
//! [`forward`] and [`data`] describe their pass as a [`sweep`], [`weight`] sums over pixels, [`depthwise`] has plain
//! loops of its own. Convolutions of one tap are matrix products ([`single`]). Those and [`tiled`] may round operands.

mod cut;
mod data;
mod depthwise;
mod forward;
mod partial;
mod patches;
mod single;
mod sweep;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod weight;

use super::shape::ConvShape;
use crate::kernels::precision::Precision;
use crate::kernels::simd::{Level, level};

/// Whether a convolution of several taps is computed here from rounded operands.
pub(crate) fn rounds(precision: Precision, shape: &ConvShape) -> bool {
    #[cfg(target_arch = "x86_64")]
    return tiled::suits(precision, shape);
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `y` from `x` and the weights.
pub(crate) fn forward(precision: Precision, shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if tiled::suits(precision, shape) {
        check(shape, x.len(), w.len(), y.len());
        return forward::run_rounded(shape, x, w, y);
    }
    if single::suits(shape) {
        single::forward(precision, shape, x, w, y);
    } else if depthwise::suits(shape) {
        depthwise::forward(shape, x, w, y);
    } else {
        forward_at(level(), shape, x, w, y);
    }
}

/// `dx` from `dy` and the weights, or added to `dx`.
pub(crate) fn backward_data(
    precision: Precision,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if tiled::suits(precision, shape) {
        check(shape, dx.len(), w.len(), dy.len());
        return data::run_rounded(shape, dy, w, dx, add);
    }
    if single::suits(shape) {
        single::backward_data(precision, shape, dy, w, dx, add);
    } else if depthwise::suits(shape) {
        depthwise::backward_data(shape, dy, w, dx, add);
    } else {
        backward_data_at(level(), shape, dy, w, dx, add);
    }
}

/// `dw` from `x` and `dy`.
pub(crate) fn backward_weight(
    precision: Precision,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if tiled::suits(precision, shape) {
        check(shape, x.len(), dw.len(), dy.len());
        return tiled::backward_weight(shape, x, dy, dw);
    }
    if single::suits(shape) {
        single::backward_weight(precision, shape, x, dy, dw);
    } else if depthwise::suits(shape) {
        depthwise::backward_weight(shape, x, dy, dw);
    } else {
        backward_weight_at(level(), shape, x, dy, dw);
    }
}

fn forward_at(level: Level, shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    check(shape, x.len(), w.len(), y.len());
    forward::run(level, shape, x, w, y);
}

fn backward_data_at(level: Level, shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    check(shape, dx.len(), w.len(), dy.len());
    data::run(level, shape, dy, w, dx, add);
}

fn backward_weight_at(level: Level, shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    check(shape, x.len(), dw.len(), dy.len());
    weight::run(level, shape, x, dy, dw);
}

fn check(shape: &ConvShape, x: usize, w: usize, y: usize) {
    assert!(
        x >= shape.inputs() && w >= shape.weights() && y >= shape.outputs(),
        "convolution: operands too short"
    );
}

/// The part of `low..low + taps` that lies in `0..len`, counted from `low`.
fn clip(low: isize, taps: usize, len: usize) -> (usize, usize) {
    let start = (-low).clamp(0, taps as isize);
    let end = (len as isize - low).clamp(start, taps as isize);
    (start as usize, end as usize)
}
