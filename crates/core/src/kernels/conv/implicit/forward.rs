//! The forward pass as a walk over the output.

use super::sweep::{Axis, Class, Plane, Sweep};
use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::{Columns, transpose};
use crate::kernels::simd::{Level, PANEL};

/// All outputs along an axis use all taps.
fn axis(stride: usize, padding: usize, kernel: usize, count: usize) -> Axis {
    let class = Class { first: 0, count, low: -(padding as isize), taps: (0..kernel).collect() };
    Axis { stride, step: 1, classes: vec![class] }
}

fn sweep(shape: &ConvShape) -> Sweep {
    Sweep {
        n: shape.n,
        groups: shape.groups,
        from: Plane { h: shape.h, w: shape.w, c: shape.c },
        to: Plane { h: shape.oh, w: shape.ow, c: shape.o },
        down: axis(shape.stride[0], shape.padding[0], shape.kh, shape.oh),
        across: axis(shape.stride[1], shape.padding[2], shape.kw, shape.ow),
    }
}

/// What fills a panel of a group.
fn pack<'a>(shape: &ConvShape, w: &'a [f32]) -> impl Fn(usize, usize, &mut [f32]) + Sync + use<'a> {
    let (c, taps) = (shape.c / shape.groups, shape.kh * shape.kw);
    let columns = Columns(shape.o / shape.groups);
    // Element (channel, tap) of the saved weights becomes row (tap, channel) of the panel.
    let place: Vec<usize> = (0..c * taps).map(|i| i % taps * c + i / taps).collect();
    move |group, panel, dst| {
        let w = &w[(group * columns.0 + panel * PANEL) * c * taps..];
        transpose(w, c * taps, columns.used(panel), columns.width(panel), Some(&place), dst);
    }
}

/// `y` from `x` and the weights.
pub(super) fn run(level: Level, shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    sweep(shape).run(level, x, pack(shape, w), y, false);
}

/// As [`run`], with operands rounded to bf16.
#[cfg(target_arch = "x86_64")]
pub(super) fn run_rounded(shape: &ConvShape, x: &[f32], w: &[f32], y: &mut [f32]) {
    sweep(shape).run_rounded(x, pack(shape, w), y, false);
}
