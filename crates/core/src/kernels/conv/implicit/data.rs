//! The data gradient as a walk over the input: input pixels whose coordinates leave the same remainders by the stride
//! use the same taps, so each such class is a convolution of stride 1 of the output gradient.

use super::sweep::{Axis, Class, Plane, Sweep};
use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::Columns;
use crate::kernels::simd::{Level, PANEL};

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

pub(super) fn run(level: Level, shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    let sweep = Sweep {
        n: shape.n,
        groups: shape.groups,
        from: Plane { h: shape.oh, w: shape.ow, c: shape.o },
        to: Plane { h: shape.h, w: shape.w, c: shape.c },
        down: axis(shape.stride[0], shape.padding[0], shape.kh, shape.h),
        across: axis(shape.stride[1], shape.padding[2], shape.kw, shape.w),
    };
    let (o, taps) = (shape.o / shape.groups, shape.kh * shape.kw);
    let columns = Columns(shape.c / shape.groups);
    let order: Vec<usize> = sweep.order().iter().map(|&(i, j)| i * shape.kw + j).collect();
    let pack = |group: usize, panel: usize, dst: &mut [f32]| {
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
    };
    sweep.run(level, dy, pack, dx, add);
}
