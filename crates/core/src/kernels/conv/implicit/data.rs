//! The data gradient as a walk over the input: input pixels whose coordinates leave the same remainders by the stride
//! use the same taps, so each such class is a convolution of stride 1 of the output gradient.

use super::sweep::{Axis, Class, Plane, Sweep};
use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::Columns;
use crate::kernels::simd::{Level, PANEL};

/// The classes of inputs along an axis, one for each remainder.
fn axis(stride: usize, padding: usize, kernel: usize, len: usize) -> Axis {
    let classes = (0..stride).map(|first| {
        let offset = first + padding;
        // Kernel places that meet this remainder, the last one first: it reads the lowest output place.
        let taps: Vec<usize> = (offset % stride..kernel).step_by(stride).rev().collect();
        let low = (offset / stride) as isize - (taps.len() as isize - 1);
        Class { first, count: len.saturating_sub(first).div_ceil(stride), low, taps }
    });
    Axis { stride: 1, step: stride, classes: classes.collect() }
}

fn sweep(shape: &ConvShape) -> Sweep {
    Sweep {
        n: shape.n,
        groups: shape.groups,
        from: Plane { h: shape.oh, w: shape.ow, c: shape.o },
        to: Plane { h: shape.h, w: shape.w, c: shape.c },
        down: axis(shape.stride[0], shape.padding[0], shape.kh, shape.h),
        across: axis(shape.stride[1], shape.padding[2], shape.kw, shape.w),
    }
}

/// What fills a panel of a group.
fn pack<'a>(
    sweep: &Sweep,
    shape: &ConvShape,
    w: &'a [f32],
) -> impl Fn(usize, usize, &mut [f32]) + Sync + use<'a> {
    let (o, taps) = (shape.o / shape.groups, shape.kh * shape.kw);
    let columns = Columns(shape.c / shape.groups);
    let order: Vec<usize> = sweep.order().iter().map(|&(i, j)| i * shape.kw + j).collect();
    move |group, panel, dst| {
        let (used, width) = (columns.used(panel), columns.width(panel));
        for i in 0..o {
            let w = &w[((group * o + i) * columns.0 + panel * PANEL) * taps..][..used * taps];
            for (t, &tap) in order.iter().enumerate() {
                let row = &mut dst[(t * o + i) * width..][..width];
                for (j, row) in row.iter_mut().enumerate().take(used) {
                    *row = w[j * taps + tap];
                }
                row[used..].fill(0.0);
            }
        }
    }
}

/// `dx` from `dy` and the weights, or added to `dx`.
pub(super) fn run(level: Level, shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    let sweep = sweep(shape);
    sweep.run(level, dy, pack(&sweep, shape, w), dx, add);
}

/// As [`run`], with operands rounded to bf16.
#[cfg(target_arch = "x86_64")]
pub(super) fn run_rounded(shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    let sweep = sweep(shape);
    sweep.run_rounded(dy, pack(&sweep, shape, w), dx, add);
}
