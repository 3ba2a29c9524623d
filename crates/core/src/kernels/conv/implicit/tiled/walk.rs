//! The forward pass and the data gradient.

use std::ops::Range;

use super::map::Map;
use crate::kernels::conv::implicit::sweep::{Class, Sweep};
use crate::kernels::gemm::bf16::{amx, pack};
use crate::kernels::gemm::{Columns, LINE, UNITS};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::PANEL;

/// Destination pixels for which a unit has the right operand read from far away.
const PIXELS: usize = 784;

/// Destination places that use the same taps.
struct Pass<'a> {
    down: &'a Class,
    across: &'a Class,
    /// Where the taps lie in the map, from the pixel on that a destination pixel begins with.
    taps: Vec<usize>,
    /// Taps of the right operand before these.
    before: usize,
}

/// Operands of the whole walk.
struct Walk<'a> {
    sweep: &'a Sweep,
    map: Map,
    passes: Vec<Pass<'a>>,
    /// Panels of pairs, `[tap][pair of channels][column]`.
    right: Buffer,
    /// Pairs of the depth.
    pairs: usize,
    columns: Columns,
    out: Disjoint<'a>,
    add: bool,
}

impl Sweep {
    /// As [`Self::run`], with rounded operands and for one group.
    pub(in crate::kernels::conv::implicit) fn run_rounded(
        &self,
        x: &[f32],
        pack: impl Fn(usize, usize, &mut [f32]) + Sync,
        y: &mut [f32],
        add: bool,
    ) {
        let (from, to) = (self.from, self.to);
        assert!(
            x.len() >= self.n * from.h * from.w * from.c && y.len() >= self.n * to.h * to.w * to.c,
            "convolution: operands too short"
        );
        let (columns, map) = (Columns(to.c), Map::new(self, x));
        let mut passes = Vec::new();
        let mut before = 0;
        for down in &self.down.classes {
            for across in &self.across.classes {
                let (_, w, c) = map.extents;
                let place = |i: usize| (0..across.taps.len()).map(move |j| (i * w + j) * c);
                let taps: Vec<_> = (0..down.taps.len()).flat_map(place).collect();
                let count = taps.len();
                passes.push(Pass { down, across, taps, before });
                before += count;
            }
        }
        let depth = before * from.c;
        let mut right = Buffer::new(columns.padded() * depth / 2);
        let panels = Disjoint::new(&mut right);
        parallel::for_each(columns.panels(), |panel| {
            let width = columns.width(panel);
            scratch(depth * width, 0, |values, _| {
                pack(0, panel, values);
                // SAFETY: panels do not overlap; only called on machines with the instructions.
                unsafe {
                    let to = panels.slice(panel * PANEL * depth / 2, width * depth / 2);
                    pack::columns::<2, 1>(values, width, depth, width, pack::words_mut(to), 0);
                }
            });
        });
        let out = Disjoint::new(y);
        Walk { sweep: self, map, passes, right, pairs: depth / 2, columns, out, add }.run();
    }
}

impl Walk<'_> {
    fn run(&self) {
        let (rows, columns) = (self.sweep.down.count(), self.sweep.across.count());
        let pixels = (rows * columns).max(1);
        let images = (PIXELS / pixels).clamp(1, self.sweep.n.max(1));
        let band = rows.div_ceil(pixels.div_ceil(2 * PIXELS)).max(1);
        let (blocks, bands) = (self.sweep.n.div_ceil(images), rows.div_ceil(band));
        let panels = self.columns.panels();
        let share = panels.div_ceil(UNITS.div_ceil((blocks * bands).max(1))).max(1);
        let shares = panels.div_ceil(share);
        parallel::for_each(blocks * bands * shares, |unit| {
            let (place, own) = (unit / shares, unit % shares * share);
            let (block, band_at) = (place / bands * images, place % bands * band);
            let images = block..self.sweep.n.min(block + images);
            let rows = band_at..rows.min(band_at + band);
            // SAFETY: only called on machines with the instructions.
            let mut registers = unsafe { amx::Registers::new() };
            for panel in own..panels.min(own + share) {
                for pass in &self.passes {
                    self.multiply(&images, &rows, panel, pass, &mut registers);
                }
            }
        });
    }

    /// The products of one pass for a panel.
    fn multiply(
        &self,
        images: &Range<usize>,
        rows: &Range<usize>,
        panel: usize,
        pass: &Pass,
        registers: &mut amx::Registers,
    ) {
        let rows = rows.start..rows.end.min(pass.down.count);
        let count = pass.across.count;
        if rows.is_empty() || count == 0 {
            return;
        }
        let (from, to) = (&self.map, self.sweep.to);
        let (h, w, c) = from.extents;
        let (width, used) = (self.columns.width(panel), self.columns.used(panel));
        let strides = (self.sweep.down.stride, self.sweep.across.stride);
        let low = (
            (pass.down.low - from.first.0).max(0) as usize,
            (pass.across.low - from.first.1).max(0) as usize,
        );
        let c_row = self.sweep.across.step * to.c;
        // A row of pixels is cut into even parts.
        let parts = count.div_ceil(LINE);
        let place = |i: usize| {
            let (row, part) = (i / parts, i % parts);
            let (n, row) = (images.start + row / rows.len(), rows.start + row % rows.len());
            let (start, end) = (count * part / parts, count * (part + 1) / parts);
            let source = (n * h + row * strides.0 + low.0) * w + start * strides.1 + low.1;
            let (down, across) = (
                pass.down.first + row * self.sweep.down.step,
                pass.across.first + start * self.sweep.across.step,
            );
            let target = ((n * to.h + down) * to.w + across) * to.c + panel * PANEL;
            (source * c, target, end - start)
        };
        let words = from.words();
        let right = &pack::words(&self.right)[panel * PANEL * self.pairs + pass.before * c * width..]
            [..pass.taps.len() * c * width];
        let all = images.len() * rows.len() * parts;
        for i in (0..all).step_by(2) {
            let (first, second) = (place(i), (i + 1 < all).then(|| place(i + 1)));
            let (last, heights) = match second {
                Some(second) => (second, [first.2, second.2]),
                None => (first, [first.2, 0]),
            };
            // The last pixel of the last tap.
            let end = last.0 + (last.2 - 1) * strides.1 * c + pass.taps.last().map_or(0, |tap| tap + c);
            assert!(pass.taps.is_empty() || end <= words.len(), "convolution: a tap beyond the map");
            // SAFETY: this unit alone touches these columns of its pixels.
            let target = unsafe { self.out.pointer(first.1, last.1 + (last.2 - 1) * c_row + used - first.1) };
            let block = amx::Block {
                a: words.as_ptr().wrapping_add(first.0),
                a_row: strides.1 * c,
                a_step: LINE,
                a_block: last.0 - first.0,
                lost: None,
                b: right.as_ptr(),
                b_row: width,
                taps: &pass.taps,
                groups: c / LINE,
                c: target,
                c_row,
                c_block: last.1 - first.1,
                d: if self.add { target } else { std::ptr::null() },
                d_row: c_row,
                d_block: last.1 - first.1,
                columns: used,
            };
            // SAFETY: the last of the pixels of both operands were found to exist; without taps nothing of them is read.
            unsafe { registers.multiply(&block, heights) };
        }
    }
}
