//! Weights on their way to the product: gathered from where they are saved, transformed, laid out in panels.

use std::ops::Range;

use super::transform::{Job, MOST, prefetch};
use super::{ConvShape, LINE, forward::Kernels};
use crate::kernels::gemm::{Columns, Strip};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::PANEL;

/// Taps of a kernel.
const TAPS: usize = 9;
/// Channels that are gathered at a time.
const GATHERED: usize = 16;
/// How many rows ahead of use weights are asked for, where a row is used at once.
const AHEAD: usize = 4;

/// Weights as they are saved, `[O, C, 3, 3]`, seen as the right operand of a product.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    w: &'a [f32],
    /// C.
    c: usize,
    /// Whether outputs and inputs change places, and the kernels are turned by half a circle.
    transposed: bool,
    /// Channels summed over.
    rows: usize,
    pub columns: Columns,
}

impl<'a> Weights<'a> {
    /// The weights that make `y` of `x`.
    pub(super) fn new(shape: &ConvShape, w: &'a [f32]) -> Self {
        Self { w, c: shape.c, transposed: false, rows: shape.c, columns: Columns(shape.o) }
    }

    /// The weights that make `dx` of `dy`.
    pub(super) fn transposed(shape: &ConvShape, w: &'a [f32]) -> Self {
        Self { w, c: shape.c, transposed: true, rows: shape.o, columns: Columns(shape.c) }
    }

    /// Channels summed over, up to whole vectors with weights of zero.
    pub(super) fn depth(&self) -> usize {
        self.rows.next_multiple_of(LINE)
    }

    /// Room that [`Self::transform`] needs beside its result.
    pub(super) fn room() -> usize {
        GATHERED * TAPS * PANEL
    }

    /// The transformed weights of some channels of a panel, for every position `[channels, width]` at one of `dst`.
    ///
    /// # Safety
    /// Every pointer in `dst` is good for writing `channels.len()` rows of the panel's width.
    pub(super) unsafe fn transform(
        &self,
        kernels: &Kernels,
        panel: usize,
        channels: Range<usize>,
        dst: &[*mut f32],
        room: &mut [f32],
    ) {
        let width = self.columns.width(panel);
        for first in channels.clone().step_by(GATHERED) {
            let end = channels.end.min(first + GATHERED);
            let taps = &mut room[..(end - first) * TAPS * width];
            self.gather(panel, first..end, taps);
            let src: [_; TAPS] = std::array::from_fn(|tap| taps[tap * width..].as_ptr());
            for row in first..end {
                let job = Job {
                    src: &src,
                    from: ((row - first) * TAPS * width, LINE),
                    dst,
                    to: ((row - channels.start) * width, LINE),
                    chunks: width / LINE,
                    ahead: &[],
                    add: false,
                };
                // SAFETY: `taps` holds all rows gathered, and `dst` has room by the caller's promise.
                unsafe { (kernels.weight)(&job) };
            }
        }
    }

    /// The taps of some channels of a panel, `[channels, 9, width]`.
    fn gather(&self, panel: usize, channels: Range<usize>, taps: &mut [f32]) {
        let (used, width) = (self.columns.used(panel), self.columns.width(panel));
        let (real, c) = (channels.start.min(self.rows)..channels.end.min(self.rows), self.c);
        if used < width || real.len() < channels.len() {
            taps.fill(0.0);
        }
        let rows = taps.chunks_exact_mut(TAPS * width);
        if self.transposed {
            for (o, dst) in real.zip(rows) {
                let first = (o * c + panel * PANEL) * TAPS;
                self.soon(first + AHEAD * c * TAPS, used * TAPS);
                for (lane, src) in self.w[first..].chunks_exact(TAPS).enumerate().take(used) {
                    for (tap, value) in src.iter().rev().enumerate() {
                        dst[tap * width + lane] = *value;
                    }
                }
            }
        } else {
            for lane in 0..used {
                let first = ((panel * PANEL + lane) * c + real.start) * TAPS;
                self.soon(first + GATHERED * TAPS, real.len() * TAPS);
                let src = &self.w[first..first + real.len() * TAPS];
                // The taps of a channel follow each other, and so do the rows they go to.
                for (value, dst) in src.iter().zip(taps.chunks_exact_mut(width)) {
                    dst[lane] = *value;
                }
            }
        }
    }

    /// Asks for `len` weights that will be gathered soon.
    fn soon(&self, first: usize, len: usize) {
        for place in (first..first + len).step_by(LINE) {
            prefetch(self.w.as_ptr().wrapping_add(place));
        }
    }
}

/// All transformed weights: for every position the panels of a right operand `[depth, columns]`.
pub(super) struct Packed {
    values: Buffer,
    /// Distance of two positions.
    stride: usize,
    pub depth: usize,
    pub columns: Columns,
}

impl Packed {
    pub(super) fn new(kernels: &Kernels, weights: &Weights) -> Self {
        const PART: usize = 4 * GATHERED;
        let (depth, columns) = (weights.depth(), weights.columns);
        let stride = depth * columns.padded() + LINE;
        let mut values = Buffer::new(kernels.positions * stride);
        let out = Disjoint::new(&mut values);
        let parts = depth.div_ceil(PART);
        parallel::for_each(columns.panels() * parts, |unit| {
            let (panel, first) = (unit / parts, unit % parts * PART);
            let width = columns.width(panel);
            let channels = first..depth.min(first + PART);
            scratch(Weights::room(), 0, |room, _| {
                let mut dst = [std::ptr::null_mut(); MOST];
                for (position, dst) in dst.iter_mut().enumerate().take(kernels.positions) {
                    let place = position * stride + panel * PANEL * depth + first * width;
                    // SAFETY: channels of a panel do not overlap.
                    *dst = unsafe { out.pointer(place, channels.len() * width) };
                }
                // SAFETY: as above.
                unsafe { weights.transform(kernels, panel, channels, &dst, room) };
            });
        });
        Self { values, stride, depth, columns }
    }

    /// The rows of a strip at a position.
    pub(super) fn strip(&self, position: usize, strip: &Strip) -> &[f32] {
        let first = position * self.stride + strip.panel * PANEL * self.depth;
        &self.values[first..][..self.depth * strip.width]
    }

    /// The distance of two panels.
    pub(super) fn distance(&self) -> usize {
        PANEL * self.depth
    }
}
