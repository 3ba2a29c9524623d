//! Winograd convolution: 3x3 kernels of stride 1 with 2.25 or 4 times fewer multiplications.
//!
//! Tiles of `m x m` outputs (`m` 2 or 4) are computed from the `t x t` inputs around them, `t = m + 2`: inputs and
//! weights are transformed, multiplied for each of the `t * t` positions as matrices `[tiles, C] x [C, O]`, and the
//! products transformed back. The gradient of the weights goes the same way with the transposed transforms.
//!
//! Errors grow with the tile: about 1e-6 of the output's RMS for `F2` (less than plain summation), 1e-5 for `F4`.

mod forward;
mod lanes;
mod packed;
#[cfg(test)]
mod tests;
mod tiles;
mod transform;
mod weight;

use self::forward::Kernels;
use self::packed::Weights;
use self::tiles::{Map, Tiles};
use super::shape::ConvShape;
use crate::kernels::gemm::LINE;
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::simd::{Level, level};

/// Side of the output tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Tiles of 2x2: the more exact.
    F2,
    /// Tiles of 4x4: the faster.
    F4,
}

impl Variant {
    /// Side of the output tile.
    fn m(self) -> usize {
        match self {
            Self::F2 => 2,
            Self::F4 => 4,
        }
    }

    /// Side of the input tile.
    fn t(self) -> usize {
        self.m() + 2
    }

    /// Tiles that take as long as the transform of the weights.
    fn more_tiles(self) -> usize {
        match self {
            Self::F2 => 21,
            Self::F4 => 11,
        }
    }
}

/// What a convolution computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Forward,
    /// The gradient of the input.
    Data,
    /// The gradient of the weights.
    Weight,
}

/// Fewest channels, in and out, that repay the transforms.
const FEWEST: usize = 32;
/// Pixels for which plain convolution takes as long as for getting its weights ready.
const PLAIN: usize = 20;

/// Whether this algorithm can compute `shape`, and has enough channels to repay the transforms.
pub(crate) fn suits(shape: &ConvShape) -> bool {
    computes(shape) && shape.c >= FEWEST && shape.o >= FEWEST
}

fn computes(shape: &ConvShape) -> bool {
    (shape.kh, shape.kw, shape.stride, shape.groups) == (3, 3, [1, 1], 1)
}

/// The faster variant for `shape`, or none where plain convolution is expected to be faster.
///
/// What counts are the products of a pair of channels (measured on Zen 4: their time is in proportion for either
/// variant, and the three passes differ too little to be told apart) and the transforms of the weights, which cost as
/// much as those of some more tiles.
pub(crate) fn preferred(shape: &ConvShape, _pass: Pass) -> Option<Variant> {
    if !suits(shape) {
        return None;
    }
    let cost = |v: Variant| {
        let tiles = shape.n * shape.oh.div_ceil(v.m()) * shape.ow.div_ceil(v.m());
        v.t() * v.t() * (tiles + v.more_tiles())
    };
    let (small, large) = (cost(Variant::F2), cost(Variant::F4));
    let (v, least) = if large < small { (Variant::F4, large) } else { (Variant::F2, small) };
    (least < 9 * (shape.n * shape.oh * shape.ow + PLAIN)).then_some(v)
}

/// `y = conv(x, w)`.
pub(crate) fn forward(v: Variant, shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    forward_at(level(), v, shape, x, w, y);
}

/// `dx`, the gradient of the input, or added to `dx`.
pub(crate) fn backward_data(v: Variant, shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    backward_data_at(level(), v, shape, dy, w, (dx, add));
}

/// `dw`, the gradient of the weights.
pub(crate) fn backward_weight(v: Variant, shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    backward_weight_at(level(), v, shape, x, dy, dw);
}

/// Operands are as long as `shape` says.
fn check(shape: &ConvShape, x: usize, w: usize, y: usize) {
    assert!(computes(shape), "winograd: {shape:?}");
    let lengths = (shape.inputs(), shape.weights(), shape.outputs());
    assert!(lengths == (x, w, y), "winograd: operands of {x}, {w}, {y} elements for {shape:?}");
}

fn forward_at(level: Level, v: Variant, shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    check(shape, x.len(), w.len(), y.len());
    let tiles = Tiles::new(v, shape);
    let kernels = Kernels::new(level, v);
    convolve(&kernels, &tiles, (x, shape.c), &Weights::new(shape, w), (y, shape.o), false);
}

fn backward_data_at(
    level: Level,
    v: Variant,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    (dx, add): (&mut [f32], bool),
) {
    check(shape, dx.len(), w.len(), dy.len());
    let tiles = Tiles::transposed(v, shape);
    let kernels = Kernels::new(level, v);
    convolve(&kernels, &tiles, (dy, shape.o), &Weights::transposed(shape, w), (dx, shape.c), add);
}

fn backward_weight_at(level: Level, v: Variant, shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    check(shape, x.len(), dw.len(), dy.len());
    let tiles = Tiles::new(v, shape);
    let (wide_x, wide_dy) = (widened(x, shape.c), widened(dy, shape.o));
    let x = wide_x.as_deref().unwrap_or(x);
    let dy = wide_dy.as_deref().unwrap_or(dy);
    weight::backward(level, v, &tiles, (x, dy), dw, (shape.c, shape.o));
}

/// The convolution of `tiles`, by way of copies where channels do not fill vectors.
fn convolve(
    kernels: &Kernels,
    tiles: &Tiles,
    (x, c): (&[f32], usize),
    weights: &Weights,
    (y, o): (&mut [f32], usize),
    add: bool,
) {
    let wide = widened(x, c);
    let x = wide.as_deref().unwrap_or(x);
    if o.is_multiple_of(LINE) {
        return forward::run(kernels, tiles, x, weights, y, add);
    }
    let mut out = Buffer::new(tiles.output.elements());
    forward::run(kernels, tiles, x, weights, &mut out, false);
    for (y, out) in y.chunks_exact_mut(o).zip(out.chunks_exact(o.next_multiple_of(LINE))) {
        for (y, out) in y.iter_mut().zip(out) {
            *y = if add { *y + out } else { *out };
        }
    }
}

/// Pixels of `c` channels with zeros up to whole vectors, or nothing where they are whole.
fn widened(x: &[f32], c: usize) -> Option<Buffer> {
    const PIXELS: usize = 1024;
    let wide = c.next_multiple_of(LINE);
    if wide == c {
        return None;
    }
    let mut out = Buffer::new(x.len() / c * wide);
    let parts = (x.len() / c).div_ceil(PIXELS);
    let len = out.len();
    let place = Disjoint::new(&mut out);
    parallel::for_each(parts, |part| {
        let first = part * PIXELS * wide;
        // SAFETY: parts do not overlap.
        let out = unsafe { place.slice(first, (PIXELS * wide).min(len - first)) };
        for (out, x) in out.chunks_exact_mut(wide).zip(x[part * PIXELS * c..].chunks_exact(c)) {
            out[..c].copy_from_slice(x);
            out[c..].fill(0.0);
        }
    });
    Some(out)
}

/// Distance of neighbouring rows of `len` elements: never a multiple of 2 KB, where rows would push each other out of
/// the first-level cache.
fn pitch(len: usize) -> usize {
    if len.is_multiple_of(512) { len + LINE } else { len }
}
