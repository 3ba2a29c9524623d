//! Convolutions of one tap: matrix products over pixels, which are gathered first where the stride leaves some out.

use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::UNITS;
use crate::kernels::gemm::at::{linear, linear_backward_data, linear_backward_weight};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::precision::Precision;

/// Whether the kernel is one tap that never meets padding.
pub(super) fn suits(shape: &ConvShape) -> bool {
    shape.kh == 1 && shape.kw == 1 && shape.padding == [0; 4] && shape.groups == 1
}

/// Output pixels, input and output channels.
fn extents(shape: &ConvShape) -> (usize, usize, usize) {
    (shape.n * shape.oh * shape.ow, shape.c, shape.o)
}

/// `y` from `x` and the weights.
pub(super) fn forward(precision: Precision, shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    if shape.is_pointwise() {
        return linear(precision, extents(shape), x, w, None, y);
    }
    linear(precision, extents(shape), &gather(shape, x), w, None, y);
}

/// `dx` from `dy` and the weights, or added to `dx`.
pub(super) fn backward_data(
    precision: Precision,
    shape: &ConvShape,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    if shape.is_pointwise() {
        return linear_backward_data(precision, extents(shape), dy, w, dx, add);
    }
    let mut taken = Buffer::new(shape.n * shape.oh * shape.ow * shape.c);
    linear_backward_data(precision, extents(shape), dy, w, &mut taken, false);
    scatter(shape, &taken, dx, add);
}

/// `dw` from `x` and `dy`.
pub(super) fn backward_weight(
    precision: Precision,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) {
    if shape.is_pointwise() {
        return linear_backward_weight(precision, extents(shape), x, dy, dw);
    }
    linear_backward_weight(precision, extents(shape), &gather(shape, x), dy, dw);
}

/// Rows of pixels (`count` in all) that one unit moves.
fn share(count: usize) -> usize {
    count.div_ceil(UNITS).max(1)
}

/// The input pixels that are used, side by side.
fn gather(shape: &ConvShape, x: &[f32]) -> Buffer {
    let &ConvShape { n, h, w, c, oh, ow, stride, .. } = shape;
    assert!(x.len() >= shape.inputs(), "convolution: operands too short");
    let mut taken = Buffer::new(n * oh * ow * c);
    let (out, share) = (Disjoint::new(&mut taken), share(n * oh));
    parallel::for_each((n * oh).div_ceil(share), |unit| {
        for row in (unit * share)..(n * oh).min((unit + 1) * share) {
            // SAFETY: every row of pixels belongs to one unit.
            let dst = unsafe { out.slice(row * ow * c, ow * c) };
            let src = &x[(row / oh * h + row % oh * stride[0]) * w * c..][..w * c];
            for (dst, src) in dst.chunks_exact_mut(c).zip(src.chunks(stride[1] * c)) {
                dst.copy_from_slice(&src[..c]);
            }
        }
    });
    taken
}

/// The reverse of [`gather`]: zeros (or what `dx` holds) at the pixels that are not used.
fn scatter(shape: &ConvShape, taken: &[f32], dx: &mut [f32], add: bool) {
    let &ConvShape { n, h, w, c, oh, ow, stride, .. } = shape;
    let (out, share) = (Disjoint::new(dx), share(n * h));
    parallel::for_each((n * h).div_ceil(share), |unit| {
        for row in (unit * share)..(n * h).min((unit + 1) * share) {
            // SAFETY: every row of pixels belongs to one unit.
            let dst = unsafe { out.slice(row * w * c, w * c) };
            let i = row % h;
            let used = i % stride[0] == 0 && i / stride[0] < oh;
            if !used {
                if !add {
                    dst.fill(0.0);
                }
                continue;
            }
            let src = &taken[(row / h * oh + i / stride[0]) * ow * c..][..ow * c];
            let step = stride[1] * c;
            for (j, dst) in dst.chunks_mut(step).enumerate() {
                let (dst, rest) = dst.split_at_mut(c);
                match (src.get(j * c..(j + 1) * c), add) {
                    (Some(src), false) => dst.copy_from_slice(src),
                    (Some(src), true) => dst.iter_mut().zip(src).for_each(|(dst, src)| *dst += src),
                    (None, false) => dst.fill(0.0),
                    (None, true) => {}
                }
                if !add {
                    rest.fill(0.0);
                }
            }
        }
    });
}
