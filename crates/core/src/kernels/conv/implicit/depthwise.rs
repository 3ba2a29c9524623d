//! Depthwise convolutions: every channel has a kernel of its own, so there is no product, only sums along the channels.

use super::clip;
use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::UNITS;
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::simd::vectorized;

/// Whether every channel makes one channel by itself.
pub(super) fn suits(shape: &ConvShape) -> bool {
    shape.groups == shape.c && shape.o == shape.c
}

/// Weights with the channels side by side, `[tap][channel]`.
fn by_tap(shape: &ConvShape, w: &[f32]) -> Buffer {
    let taps = shape.kh * shape.kw;
    let mut packed = Buffer::new(taps * shape.c);
    for (t, row) in packed.chunks_exact_mut(shape.c).enumerate() {
        row.iter_mut().zip(w[t..].iter().step_by(taps)).for_each(|(row, w)| *row = *w);
    }
    packed
}

/// Cuts `rows` rows of `len` floats into units and calls `f` with each row.
fn by_rows(rows: usize, len: usize, out: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
    let (out, share) = (Disjoint::new(out), rows.div_ceil(4 * UNITS).max(1));
    parallel::for_each(rows.div_ceil(share), |unit| {
        for row in (unit * share)..rows.min((unit + 1) * share) {
            // SAFETY: every row belongs to one unit.
            f(row, unsafe { out.slice(row * len, len) });
        }
    });
}

pub(super) fn forward(shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    let &ConvShape { n, h, c, oh, ow, .. } = shape;
    let packed = by_tap(shape, w);
    by_rows(n * oh, ow * c, y, |row, y| {
        y.fill(0.0);
        let low = (row % oh * shape.stride[0]) as isize - shape.padding[0] as isize;
        let (top, bottom) = clip(low, shape.kh, h);
        for i in top..bottom {
            let from = row / oh * h + (low + i as isize) as usize;
            for j in 0..shape.kw {
                let w = &packed[(i * shape.kw + j) * c..][..c];
                let x = &x[from * shape.w * c..][..shape.w * c];
                let (first, low, count) = meeting(shape, j);
                gather(&mut y[first * c..][..count * c], &x[low * c..], w, shape.stride[1]);
            }
        }
    });
}

/// The first output column whose tap `j` lies in the map, the input column that it reads, and how many such outputs
/// there are.
fn meeting(shape: &ConvShape, j: usize) -> (usize, usize, usize) {
    let (stride, left) = (shape.stride[1], shape.padding[2]);
    let first = left.saturating_sub(j).div_ceil(stride);
    let end = (shape.w + left).saturating_sub(j).div_ceil(stride).min(shape.ow);
    if first >= end {
        return (0, 0, 0);
    }
    (first, first * stride + j - left, end - first)
}

pub(super) fn backward_data(shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    let &ConvShape { n, h, c, oh, ow, .. } = shape;
    let packed = by_tap(shape, w);
    by_rows(n * h, shape.w * c, dx, |row, dx| {
        if !add {
            dx.fill(0.0);
        }
        let place = row % h + shape.padding[0];
        for i in (0..shape.kh).filter(|&i| i <= place && (place - i) % shape.stride[0] == 0) {
            let from = (place - i) / shape.stride[0];
            if from >= oh {
                continue;
            }
            let dy = &dy[(row / h * oh + from) * ow * c..][..ow * c];
            for j in 0..shape.kw {
                let w = &packed[(i * shape.kw + j) * c..][..c];
                let (first, low, count) = meeting(shape, j);
                scatter(&mut dx[low * c..], &dy[first * c..][..count * c], w, shape.stride[1]);
            }
        }
    });
}

pub(super) fn backward_weight(shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let &ConvShape { n, h, c, oh, ow, .. } = shape;
    let size = shape.kh * shape.kw * c;
    let share = (n * oh).div_ceil(UNITS).max(1);
    let groups = (n * oh).div_ceil(share);
    let mut partial = Buffer::zeros(groups * size);
    by_rows(groups, size, &mut partial, |group, sums| {
        for row in (group * share)..(n * oh).min((group + 1) * share) {
            let low = (row % oh * shape.stride[0]) as isize - shape.padding[0] as isize;
            let (top, bottom) = clip(low, shape.kh, h);
            for i in top..bottom {
                let from = row / oh * h + (low + i as isize) as usize;
                let x = &x[from * shape.w * c..][..shape.w * c];
                for j in 0..shape.kw {
                    let (first, low, count) = meeting(shape, j);
                    let dy = &dy[(row * ow + first) * c..][..count * c];
                    let sums = &mut sums[(i * shape.kw + j) * c..][..c];
                    correlate(sums, &x[low * c..], dy, shape.stride[1]);
                }
            }
        }
    });
    for (i, value) in dw[..size].iter_mut().enumerate() {
        let place = i % (size / c) * c + i / (size / c);
        *value = (0..groups).map(|group| partial[group * size + place]).sum();
    }
}

vectorized! {
    /// Adds `w` times every `stride`th pixel of `x` to the pixels of `y`.
    fn gather(y: &mut [f32], x: &[f32], w: &[f32], stride: usize) {
        for (y, x) in y.chunks_exact_mut(w.len()).zip(x.chunks(w.len() * stride)) {
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y += x * w;
            }
        }
    }

    /// Adds `w` times the pixels of `y` to every `stride`th pixel of `x`.
    fn scatter(x: &mut [f32], y: &[f32], w: &[f32], stride: usize) {
        for (y, x) in y.chunks_exact(w.len()).zip(x.chunks_mut(w.len() * stride)) {
            for ((y, x), w) in y.iter().zip(x).zip(w) {
                *x += y * w;
            }
        }
    }

    /// Adds the products of the pixels of `y` and every `stride`th pixel of `x` to `sums`.
    fn correlate(sums: &mut [f32], x: &[f32], y: &[f32], stride: usize) {
        for (y, x) in y.chunks_exact(sums.len()).zip(x.chunks(sums.len() * stride)) {
            for ((y, x), sum) in y.iter().zip(x).zip(sums.iter_mut()) {
                *sum += x * y;
            }
        }
    }
}
