//! The weight gradient: for every tap a product over the pixels of many output rows, `dw[tap] = dy^T x[tap]`.
//!
//! Operands are copied into panels, `dy` transposed by reading it so; the input of a panel serves all taps. Output rows
//! are the taps of the tile, so that the pixels of a whole chunk are summed in registers. Where a group has few
//! channels, one product with the patches of all taps side by side takes the place of one for each tap.

use super::partial::run as run_tile;
use super::patches;
use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::{Columns, LINE, PARTIALS, UNITS, add_parts, copy_columns};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::{Level, PANEL, Panel, Tap, Tile};

/// Fewest pixels that are summed in registers.
const PIXELS: usize = 256;
/// Largest extents of the part of a tap's gradient that one unit makes (outputs, inputs), whole panels.
const PART: (usize, usize) = (256, 128);

/// How the sum is cut: parts of the gradient, chunks of pixels, groups of chunks with a partial sum each.
#[derive(Debug, Clone, Copy)]
struct Cut {
    part: (usize, usize),
    parts: (usize, usize),
    /// Images and output rows of a chunk; one of them is whole.
    images: usize,
    rows: usize,
    bands: usize,
    chunks: usize,
    sums: usize,
    /// Whether a unit takes all parts: groups read the same pixels, which should come from memory once.
    together: bool,
}

impl Cut {
    /// The cut of a shape, for any number of threads.
    fn new(shape: &ConvShape) -> Self {
        let (c, o) = (shape.c / shape.groups, shape.o / shape.groups);
        let pixels = (shape.oh * shape.ow).max(1);
        let whole = patches::suits(shape);
        // Patches of all taps take the room of several pixels.
        let least = if whole { PIXELS / 2 } else { PIXELS };
        let (images, rows) = if pixels >= 2 * least {
            (1, shape.oh.div_ceil(pixels / least).max(1))
        } else {
            let blocks = shape.n.div_ceil(least.div_ceil(pixels));
            (shape.n.div_ceil(blocks.max(1)).max(1), shape.oh.max(1))
        };
        let bands = shape.oh.div_ceil(rows);
        let chunks = shape.n.div_ceil(images) * bands;
        let mut part = PART;
        let parts = |part: (usize, usize)| (o.div_ceil(part.0), if whole { 1 } else { c.div_ceil(part.1) });
        let most = (PARTIALS / shape.weights().max(1)).min(chunks).max(1);
        let units = |part| parts(part).0 * parts(part).1 * shape.groups;
        while units(part) * most < UNITS && part.0 * part.1 > 64 * 64 {
            // The input of a part is copied for all its taps, so outputs are best left together.
            part = if !whole && part.1 > PANEL { (part.0, part.1 / 2) } else { (part.0 / 2, part.1) };
        }
        let together = shape.groups > 1 && most >= UNITS;
        let sums = if together { UNITS } else { UNITS.div_ceil(units(part).max(1)).min(most) };
        Self { part, parts: parts(part), images, rows, bands, chunks, sums, together }
    }

    /// Images and output rows of a chunk.
    fn chunk(&self, shape: &ConvShape, i: usize) -> Chunk {
        let (block, band) = (i / self.bands * self.images, i % self.bands * self.rows);
        let (images, rows) = (block..shape.n.min(block + self.images), band..shape.oh.min(band + self.rows));
        Chunk { images, rows }
    }
}

/// The output pixels of some rows of some images.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub images: std::ops::Range<usize>,
    pub rows: std::ops::Range<usize>,
}

/// `dw` from `x` and `dy`.
pub(super) fn run(level: Level, shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let size = shape.o * pitch(shape);
    let cut = Cut::new(shape);
    // Sums lie as [output][tap][input] until they are added up.
    let mut partial = Buffer::new(cut.sums * size);
    let sums = Disjoint::new(&mut partial);
    let parts = cut.parts.0 * cut.parts.1 * shape.groups;
    let share = if cut.together { parts } else { 1 };
    let shares = parts.div_ceil(share);
    let task = |part: usize, sum: usize| {
        let (group, part) = (part / (cut.parts.0 * cut.parts.1), part % (cut.parts.0 * cut.parts.1));
        let (c, o) = (shape.c / shape.groups, shape.o / shape.groups);
        let (i, j) = (part / cut.parts.1 * cut.part.0, part % cut.parts.1 * cut.part.1);
        Task {
            level,
            shape,
            dy,
            x,
            outputs: (group * o + i, cut.part.0.min(o - i)),
            inputs: (j, if patches::suits(shape) { c } else { cut.part.1.min(c - j) }),
            group,
            out: &sums,
            start: sum * size,
        }
    };
    parallel::for_each(shares * cut.sums, |unit| {
        let (sum, first) = (unit / shares, unit % shares * share);
        let chunks = (cut.chunks * sum / cut.sums)..(cut.chunks * (sum + 1) / cut.sums);
        if chunks.is_empty() {
            (first..first + share).for_each(|part| task(part, sum).clear());
        }
        for i in chunks.clone() {
            let chunk = cut.chunk(shape, i);
            for part in first..first + share {
                if patches::suits(shape) {
                    task(part, sum).add_patches(&chunk, i > chunks.start);
                } else {
                    task(part, sum).add_taps(&chunk, i > chunks.start);
                }
            }
        }
    });
    add_up(shape, &partial, cut.sums, dw);
}

/// Elements of the sums of one output: with patches whole panels, so that tiles need not be cut.
fn pitch(shape: &ConvShape) -> usize {
    let row = shape.weights() / shape.o;
    if patches::suits(shape) { Columns(row).padded() } else { row }
}

/// The part of the gradient that one unit makes.
struct Task<'a> {
    level: Level,
    shape: &'a ConvShape,
    dy: &'a [f32],
    x: &'a [f32],
    /// The first output (of all groups), and how many.
    outputs: (usize, usize),
    /// The first input of the group, and how many.
    inputs: (usize, usize),
    group: usize,
    out: &'a Disjoint<'a>,
    /// The partial sum.
    start: usize,
}

impl Task<'_> {
    /// Zeros, for a sum of no chunks.
    fn clear(&self) {
        let (taps, c) = (self.shape.kh * self.shape.kw, self.shape.c / self.shape.groups);
        for o in self.outputs.0..self.outputs.0 + self.outputs.1 {
            for tap in 0..taps {
                let start = self.start + o * pitch(self.shape) + tap * c + self.inputs.0;
                // SAFETY: these inputs of these outputs belong to this unit.
                unsafe { self.out.slice(start, self.inputs.1) }.fill(0.0);
            }
        }
    }

    /// Copies the outputs of a chunk's pixels into `[line][pixel][LINE]`.
    fn copy_outputs(&self, chunk: &Chunk, dst: &mut [f32]) {
        let ConvShape { o, oh, ow, .. } = *self.shape;
        let row = ow * LINE;
        let pixels = chunk.images.len() * chunk.rows.len() * ow;
        for (line, dst) in dst.chunks_exact_mut(pixels * LINE).enumerate() {
            let used = LINE.min(self.outputs.1 - line * LINE);
            let mut rows = dst.chunks_exact_mut(row);
            for n in chunk.images.clone() {
                for (i, dst) in chunk.rows.clone().zip(&mut rows) {
                    let src = &self.dy[(n * oh + i) * ow * o + self.outputs.0 + line * LINE..];
                    // Rows of the tile that do not exist are left out later, so that they may hold anything.
                    let used = if o >= LINE && src.len() >= (ow - 1) * o + LINE { LINE } else { used };
                    copy_columns(src, o, 0, (used, LINE), dst);
                }
            }
        }
    }

    /// Products for every tap of its own.
    fn add_taps(&self, chunk: &Chunk, add: bool) {
        let shape = self.shape;
        let columns = Columns(self.inputs.1);
        let lines = self.outputs.1.div_ceil(LINE);
        let pixels = chunk.images.len() * chunk.rows.len() * shape.ow;
        let window = patches::Window::new(shape, chunk);
        let channel = self.group * (shape.c / shape.groups) + self.inputs.0;
        scratch(lines * pixels * LINE, window.pixels() * columns.padded(), |a, b| {
            self.copy_outputs(chunk, a);
            window.copy(self.x, channel, columns, b);
            for panel in 0..columns.panels() {
                let (used, width) = (columns.used(panel), columns.width(panel));
                let first = self.inputs.0 + panel * PANEL;
                let b = &b[panel * PANEL * window.pixels()..][..window.pixels() * width];
                let taps: Vec<_> = (0..shape.kh).map(|i| window.taps(i, width)).collect();
                // All taps of a few outputs in turn: a line of outputs and the panel stay in the first-level cache.
                for line in 0..lines {
                    for (i, j) in (0..shape.kh).flat_map(|i| (0..shape.kw).map(move |j| (i, j))) {
                        let column = (i * shape.kw + j) * (shape.c / shape.groups) + first;
                        let part = Part {
                            a: &a[line * pixels * LINE..],
                            b: &b[j * width..],
                            b_step: shape.stride[1] * width,
                            extents: (used, width),
                        };
                        self.product(&part, line, column, &taps[i], add);
                    }
                }
            }
        });
    }

    /// One product with all taps side by side. The outputs serve few panels: they are read where they lie.
    fn add_patches(&self, chunk: &Chunk, add: bool) {
        let shape = self.shape;
        let columns = Columns(shape.weights() / shape.o);
        let pixels = chunk.images.len() * chunk.rows.len() * shape.ow;
        let first = (chunk.images.start * shape.oh + chunk.rows.start) * shape.ow;
        let dy = &self.dy[first * shape.o..][..pixels * shape.o];
        scratch(patches::len(pixels, columns), 0, |b, _| {
            let channels = (self.group * (shape.c / shape.groups), shape.c / shape.groups);
            patches::copy_patches(shape, chunk, channels, self.x, columns, b);
            for panel in 0..columns.panels() {
                let (width, rows) = (columns.width(panel), self.outputs.1);
                let (start, pitch) = (self.outputs.0 * pitch(shape) + panel * PANEL, pitch(shape));
                let tile = Tile {
                    a: dy[self.outputs.0..].as_ptr(),
                    a_row: 1,
                    a_step: shape.o,
                    b: b[panel * PANEL..].as_ptr(),
                    b_step: columns.padded(),
                    // SAFETY: these inputs of these outputs belong to this unit; the last row ends with the panel.
                    c: unsafe { self.out.pointer(self.start + start, (rows - 1) * pitch + width) },
                    c_row: pitch,
                    depth: pixels,
                    add,
                };
                // SAFETY: both operands hold all pixels of the chunk; the sums of an output are whole panels.
                unsafe { Panel::new(self.level, width).run(rows, &tile) }
            }
        });
    }

    /// The product of one panel with a line of outputs, for gradients from `column` on.
    fn product(&self, part: &Part, line: usize, column: usize, taps: &[Tap], add: bool) {
        let ((used, width), pitch) = (part.extents, pitch(self.shape));
        let rows = LINE.min(self.outputs.1 - line * LINE);
        let start = self.start + (self.outputs.0 + line * LINE) * pitch + column;
        if taps.is_empty() {
            for row in 0..if add { 0 } else { rows } {
                // SAFETY: these inputs of these outputs belong to this unit.
                unsafe { self.out.slice(start + row * pitch, used) }.fill(0.0);
            }
            return;
        }
        let tile = Tile {
            a: part.a.as_ptr(),
            a_row: 1,
            a_step: LINE,
            b: part.b.as_ptr(),
            b_step: part.b_step,
            // SAFETY: these inputs of these outputs belong to this unit; the last row ends with the panel.
            c: unsafe { self.out.pointer(start, (rows - 1) * pitch + used) },
            c_row: pitch,
            depth: self.shape.ow,
            add,
        };
        // SAFETY: both operands hold all pixels of the chunk, the right one with what its taps reach.
        unsafe { run_tile(Panel::new(self.level, width), (used, width), rows, &tile, taps) }
    }
}

/// Operands of one product: outputs and a panel of inputs, from the first pixel of a tap on.
struct Part<'a> {
    a: &'a [f32],
    b: &'a [f32],
    b_step: usize,
    /// Columns that exist, and columns of the panel.
    extents: (usize, usize),
}

/// Adds the partial sums, which lie as `[output][tap][input]`, and puts them in the order of saved weights.
pub(super) fn add_up(shape: &ConvShape, partial: &[f32], sums: usize, dw: &mut [f32]) {
    let (taps, c, pitch) = (shape.kh * shape.kw, shape.c / shape.groups, pitch(shape));
    let row = taps * c;
    let share = shape.o.div_ceil(UNITS).max(1);
    let out = Disjoint::new(dw);
    parallel::for_each(shape.o.div_ceil(share), |unit| {
        let outputs = (unit * share)..shape.o.min((unit + 1) * share);
        scratch(row, 0, |sum, _| {
            for o in outputs {
                add_parts(&partial[o * pitch..], shape.o * pitch, sums, sum);
                // SAFETY: every output belongs to one unit.
                let out = unsafe { out.slice(o * row, row) };
                for (i, out) in out.chunks_exact_mut(taps).enumerate() {
                    for (tap, out) in out.iter_mut().enumerate() {
                        *out = sum[tap * c + i];
                    }
                }
            }
        });
    });
}
