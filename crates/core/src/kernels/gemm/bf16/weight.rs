//! The gradient of the weights, `dw = dy^T x`: a short, wide result of a very deep product.

use std::ops::Range;

use super::tile::{Next, Tile};
use super::{Extents, Kernel, amx, pack};
use crate::kernels::gemm::{Columns, LINE, PARTIALS, UNITS, add_parts};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::PANEL;

/// Largest extents of the part of `dw` that one unit makes (outputs, inputs), whole panels.
const PART: (usize, usize) = (256, 256);
/// Fewest rows worth a partial sum of their own.
const FEWEST: usize = 512;

impl Kernel {
    /// Rows of one pass, a number of whole vectors of pairs: a panel of each operand stays in the first-level cache, or
    /// all of them in the second, where loading and storing the sums is what takes the time.
    fn depth(self) -> usize {
        match self {
            Self::Avx512 | Self::AmxSplit => 256,
            Self::Amx => 512,
        }
    }

    /// Words from one line of outputs and one panel of inputs to the next: an odd number of cache lines, so that what is
    /// packed side by side does not push each other out.
    fn pitch(self) -> (usize, usize) {
        let pairs = self.parts() * self.depth() / 2;
        (pairs * LINE + LINE, pairs * PANEL + LINE)
    }
}

/// Parts along the outputs and inputs, and their extents; groups of rows, and their extent.
#[derive(Debug, Clone, Copy)]
struct Cut {
    part: (usize, usize),
    parts: (usize, usize),
    rows: usize,
    groups: usize,
}

impl Cut {
    fn new((rows, c, o): Extents) -> Self {
        let (mut part, size) = (PART, o * c);
        let parts = |part: (usize, usize)| (o.div_ceil(part.0), c.div_ceil(part.1));
        let most = (PARTIALS / size.max(1)).min(rows / FEWEST).max(1);
        // Smaller parts pack the operands more often, more groups have more to add up.
        while parts(part).0 * parts(part).1 * most < UNITS && part.0 * part.1 > 64 * 64 {
            part = if part.0 > part.1 { (part.0 / 2, part.1) } else { (part.0, part.1 / 2) };
        }
        let parts = parts(part);
        let groups = UNITS.div_ceil((parts.0 * parts.1).max(1)).min(most);
        let rows = rows.div_ceil(groups).next_multiple_of(2);
        Self { part, parts, rows, groups }
    }
}

pub(super) fn backward_weight(kernel: Kernel, (rows, c, o): Extents, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    assert!(
        x.len() >= rows * c && dy.len() >= rows * o && dw.len() >= o * c,
        "matrix product: operands too short"
    );
    let cut = Cut::new((rows, c, o));
    let dw = &mut dw[..o * c];
    let mut partial = Buffer::new(if cut.groups > 1 { cut.groups * o * c } else { 0 });
    let out = Disjoint::new(if cut.groups > 1 { &mut partial } else { &mut *dw });
    parallel::for_each(cut.parts.0 * cut.parts.1 * cut.groups, |unit| {
        let (group, part) = (unit / (cut.parts.0 * cut.parts.1), unit % (cut.parts.0 * cut.parts.1));
        let (output, input) = (part / cut.parts.1 * cut.part.0, part % cut.parts.1 * cut.part.1);
        let part = Part {
            kernel,
            extents: (c, o),
            outputs: output..o.min(output + cut.part.0),
            inputs: input..c.min(input + cut.part.1),
            taken: (group * cut.rows).min(rows)..((group + 1) * cut.rows).min(rows),
        };
        part.sum(x, dy, &out, group * o * c);
    });
    if cut.groups > 1 {
        let chunk = dw.len().div_ceil(UNITS).next_multiple_of(LINE);
        let (size, out) = (dw.len(), Disjoint::new(dw));
        parallel::for_each(size.div_ceil(chunk), |i| {
            let first = i * chunk;
            // SAFETY: chunks do not overlap.
            let out = unsafe { out.slice(first, chunk.min(size - first)) };
            add_parts(&partial[first..], size, cut.groups, out);
        });
    }
}

/// Some outputs and inputs of `dw`, over the rows `taken` of the operands.
struct Part {
    kernel: Kernel,
    extents: (usize, usize),
    outputs: Range<usize>,
    inputs: Range<usize>,
    taken: Range<usize>,
}

impl Part {
    /// Writes this part of the matrix that begins at `start` of `out`.
    fn sum(&self, x: &[f32], dy: &[f32], out: &Disjoint, start: usize) {
        let Self { kernel, extents: (c, o), outputs, inputs, taken } = self;
        let (columns, lines) = (Columns(inputs.len()), outputs.len().div_ceil(LINE));
        if taken.is_empty() {
            for row in outputs.clone() {
                // SAFETY: this part of this group's sums belongs to the unit.
                unsafe { out.slice(start + row * c + inputs.start, inputs.len()) }.fill(0.0);
            }
        }
        let (most, pitch) = (kernel.depth(), kernel.pitch());
        scratch(lines * pitch.0, columns.panels() * pitch.1, |a, b| {
            let (a, b) = (pack::words_mut(a), pack::words_mut(b));
            for row in taken.clone().step_by(most) {
                let depth = most.min(taken.end - row);
                // SAFETY: only called on machines with the instructions.
                unsafe {
                    let dy = &dy[row * o + outputs.start..];
                    let step = |step: usize| &dy[step * o..][..outputs.len()];
                    let turned = (pitch.0, kernel.parts() * LINE * LINE);
                    match kernel {
                        Kernel::Avx512 => pack::columns::<1, 1>(dy, *o, depth, outputs.len(), a, pitch.0),
                        Kernel::Amx => pack::turned::<1>(step, depth, outputs.len(), a, turned),
                        Kernel::AmxSplit => pack::turned::<2>(step, depth, outputs.len(), a, turned),
                    }
                    let x = &x[row * c + inputs.start..];
                    match kernel.parts() {
                        1 => pack::columns::<2, 1>(x, *c, depth, inputs.len(), b, pitch.1),
                        _ => pack::columns::<2, 2>(x, *c, depth, inputs.len(), b, pitch.1),
                    }
                }
                // What comes next lies in one piece if the rows are taken whole.
                let soon = |extent: &Range<usize>, pitch: usize| {
                    if extent.len() == pitch { most.min(taken.end - row - depth) * pitch } else { 0 }
                };
                let mut next_dy = Next::new(dy, (row + depth) * o, soon(outputs, *o));
                let mut next_x = Next::new(x, (row + depth) * c, soon(inputs, *c));
                for panel in 0..columns.panels() {
                    let next = if next_dy.is_empty() { &mut next_x } else { &mut next_dy };
                    let b = &b[panel * pitch.1..];
                    self.multiply((a, b), depth, panel, row > taken.start, next, (out, start));
                }
            }
        });
    }

    /// The product of packed operands of `depth` rows for the inputs of one panel, written or added.
    fn multiply(
        &self,
        (a, b): (&[u32], &[u32]),
        depth: usize,
        panel: usize,
        add: bool,
        next: &mut Next,
        (out, start): (&Disjoint, usize),
    ) {
        let Self { kernel, extents: (c, _), outputs, inputs, .. } = self;
        let (used, pitch) = (Columns(inputs.len()).used(panel), kernel.pitch());
        let pairs = depth.div_ceil(2);
        let place = start + outputs.start * c + inputs.start + panel * PANEL;
        // SAFETY: this part of this group's sums belongs to the unit.
        let sums = unsafe { out.pointer(place, (outputs.len() - 1) * c + used) };
        let added = |sums: *mut f32| if add { sums.cast_const() } else { std::ptr::null() };
        if *kernel != Kernel::Avx512 {
            let block = amx::Block {
                a: a.as_ptr(),
                a_row: LINE,
                a_step: kernel.parts() * LINE * LINE,
                a_block: pitch.0,
                lost: (kernel.parts() > 1).then_some(LINE * LINE),
                b: b.as_ptr(),
                b_row: Columns(inputs.len()).width(panel),
                taps: &[0],
                groups: pairs.div_ceil(LINE),
                c: sums,
                c_row: *c,
                c_block: LINE * c,
                d: added(sums),
                d_row: *c,
                d_block: LINE * c,
                columns: used,
            };
            // SAFETY: as below.
            unsafe { amx::Registers::new().multiply_rows(block, outputs.len()) };
            return;
        }
        for (line, first) in (0..outputs.len()).step_by(LINE).enumerate() {
            let height = LINE.min(outputs.len() - first);
            let sums = sums.wrapping_add(first * c);
            let (next, next_step) = next.take(height, pairs);
            let tile = Tile {
                a: a[line * pitch.0..].as_ptr(),
                a_row: 1,
                a_step: LINE,
                b: b.as_ptr(),
                pairs,
                c: sums,
                c_row: *c,
                d: added(sums),
                d_row: *c,
                columns: used,
                next,
                next_step,
            };
            // SAFETY: only called on machines with the instructions; both operands were packed with these extents, and
            // the part of the sums is the unit's own.
            unsafe { tile.run(height) };
        }
    }
}
