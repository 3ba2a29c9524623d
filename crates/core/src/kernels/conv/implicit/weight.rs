//! The weight gradient: for every tap a product over the pixels of many output rows, `dw[tap] = dy^T x[tap]`.
//!
//! Operands are copied into panels, `dy` transposed by reading it so; the input of a panel serves all taps. Output rows
//! are the taps of the tile, so that the pixels of a whole chunk are summed in registers. Where a group has few
//! channels, one product with the patches of all taps side by side takes the place of one for each tap.

use super::partial::run as run_tile;
use super::patches;
use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::{Columns, LINE, UNITS};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::{Level, PANEL, Panel, Tap, Tile};

/// Fewest pixels that are summed in registers.
const PIXELS: usize = 256;
/// Largest extents of the part of a tap's gradient that one unit makes (outputs, inputs), whole panels.
const PART: (usize, usize) = (128, 256);
/// Largest memory of the partial sums, in elements.
const PARTIALS: usize = 4 << 20;

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
}

impl Cut {
    fn new(shape: &ConvShape) -> Self {
        let (c, o) = (shape.c / shape.groups, shape.o / shape.groups);
        let pixels = (shape.oh * shape.ow).max(1);
        let (images, rows) = if pixels >= 2 * PIXELS {
            (1, shape.oh.div_ceil(pixels / PIXELS).max(1))
        } else {
            (PIXELS.div_ceil(pixels).min(shape.n).max(1), shape.oh.max(1))
        };
        let bands = shape.oh.div_ceil(rows);
        let chunks = shape.n.div_ceil(images) * bands;
        let mut part = PART;
        let whole = patches::suits(shape);
        let parts = |part: (usize, usize)| (o.div_ceil(part.0), if whole { 1 } else { c.div_ceil(part.1) });
        let most = (PARTIALS / shape.weights().max(1)).min(chunks).max(1);
        let units = |part| parts(part).0 * parts(part).1 * shape.groups;
        while units(part) * most < UNITS && part.0 * part.1 > 64 * 64 {
            part = if part.1 > part.0 { (part.0, part.1 / 2) } else { (part.0 / 2, part.1) };
        }
        let sums = UNITS.div_ceil(units(part).max(1)).min(most);
        Self { part, parts: parts(part), images, rows, bands, chunks, sums }
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

pub(super) fn run(level: Level, shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let size = shape.weights();
    let cut = Cut::new(shape);
    // Sums lie as [output][tap][input] until they are added up.
    let mut partial = Buffer::new(cut.sums * size);
    let sums = Disjoint::new(&mut partial);
    let parts = cut.parts.0 * cut.parts.1 * shape.groups;
    parallel::for_each(parts * cut.sums, |unit| {
        let (sum, part) = (unit / parts, unit % parts);
        let (group, part) = (part / (cut.parts.0 * cut.parts.1), part % (cut.parts.0 * cut.parts.1));
        let (c, o) = (shape.c / shape.groups, shape.o / shape.groups);
        let (i, j) = (part / cut.parts.1 * cut.part.0, part % cut.parts.1 * cut.part.1);
        let task = Task {
            level,
            shape,
            dy,
            x,
            outputs: (group * o + i, cut.part.0.min(o - i)),
            inputs: (j, if patches::suits(shape) { c } else { cut.part.1.min(c - j) }),
            group,
            out: &sums,
            start: sum * size,
        };
        let chunks = (cut.chunks * sum / cut.sums)..(cut.chunks * (sum + 1) / cut.sums);
        if chunks.is_empty() {
            task.clear();
        }
        for i in chunks.clone() {
            let chunk = cut.chunk(shape, i);
            if patches::suits(shape) {
                task.add_patches(&chunk, i > chunks.start);
            } else {
                task.add_taps(&chunk, i > chunks.start);
            }
        }
    });
    add_up(shape, &partial, cut.sums, dw);
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
    /// Elements of the gradient of one output.
    fn pitch(&self) -> usize {
        self.shape.kh * self.shape.kw * (self.shape.c / self.shape.groups)
    }

    fn clear(&self) {
        let (taps, c) = (self.shape.kh * self.shape.kw, self.shape.c / self.shape.groups);
        for o in self.outputs.0..self.outputs.0 + self.outputs.1 {
            for tap in 0..taps {
                let start = self.start + o * self.pitch() + tap * c + self.inputs.0;
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
                    patches::copy(src, o, (used, LINE), dst);
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
        let mut taps = Vec::new();
        scratch(lines * pixels * LINE, window.pixels() * PANEL, |a, b| {
            self.copy_outputs(chunk, a);
            for panel in 0..columns.panels() {
                let (used, width) = (columns.used(panel), columns.width(panel));
                let first = self.inputs.0 + panel * PANEL;
                let channel = self.group * (shape.c / shape.groups) + first;
                window.copy(self.x, channel, (used, width), b);
                for i in 0..shape.kh {
                    window.taps(i, width, &mut taps);
                    for j in 0..shape.kw {
                        let column = (i * shape.kw + j) * (shape.c / shape.groups) + first;
                        let part = Part {
                            a,
                            b: &b[j * width..],
                            b_step: shape.stride[1] * width,
                            extents: (used, width),
                            depth: shape.ow,
                        };
                        self.product(&part, pixels, column, &taps, add);
                    }
                }
            }
        });
    }

    /// One product with all taps side by side.
    fn add_patches(&self, chunk: &Chunk, add: bool) {
        let shape = self.shape;
        let columns = Columns(self.pitch());
        let lines = self.outputs.1.div_ceil(LINE);
        let pixels = chunk.images.len() * chunk.rows.len() * shape.ow;
        scratch(lines * pixels * LINE, pixels * columns.padded(), |a, b| {
            self.copy_outputs(chunk, a);
            let channels = (self.group * (shape.c / shape.groups), shape.c / shape.groups);
            patches::copy_patches(shape, chunk, channels, self.x, columns.padded(), b);
            for panel in 0..columns.panels() {
                let part = Part {
                    a,
                    b: &b[panel * PANEL..],
                    b_step: columns.padded(),
                    extents: (columns.used(panel), columns.width(panel)),
                    depth: pixels,
                };
                self.product(&part, pixels, panel * PANEL, &[Tap { a: 0, b: 0 }], add);
            }
        });
    }

    /// The products of one panel with all outputs, for gradients from `column` on.
    fn product(&self, part: &Part, pixels: usize, column: usize, taps: &[Tap], add: bool) {
        let (used, width) = part.extents;
        for line in 0..self.outputs.1.div_ceil(LINE) {
            let rows = LINE.min(self.outputs.1 - line * LINE);
            let start = self.start + (self.outputs.0 + line * LINE) * self.pitch() + column;
            if taps.is_empty() {
                for row in 0..if add { 0 } else { rows } {
                    // SAFETY: these inputs of these outputs belong to this unit.
                    unsafe { self.out.slice(start + row * self.pitch(), used) }.fill(0.0);
                }
                continue;
            }
            let tile = Tile {
                a: part.a[line * pixels * LINE..].as_ptr(),
                a_row: 1,
                a_step: LINE,
                b: part.b.as_ptr(),
                b_step: part.b_step,
                // SAFETY: these inputs of these outputs belong to this unit; the last row ends with the panel.
                c: unsafe { self.out.pointer(start, (rows - 1) * self.pitch() + used) },
                c_row: self.pitch(),
                depth: part.depth,
                add,
            };
            // SAFETY: both operands hold all pixels of the chunk, the right one with what its taps reach.
            unsafe { run_tile(Panel::new(self.level, width), (used, width), rows, &tile, taps) }
        }
    }
}

/// Operands of the products of one panel.
struct Part<'a> {
    a: &'a [f32],
    b: &'a [f32],
    b_step: usize,
    /// Columns that exist, and columns of the panel.
    extents: (usize, usize),
    depth: usize,
}

/// Adds the partial sums and puts them in the order of saved weights.
fn add_up(shape: &ConvShape, partial: &[f32], sums: usize, dw: &mut [f32]) {
    let (taps, c, size) = (shape.kh * shape.kw, shape.c / shape.groups, shape.weights());
    let row = taps * c;
    let share = shape.o.div_ceil(UNITS).max(1);
    let out = Disjoint::new(dw);
    parallel::for_each(shape.o.div_ceil(share), |unit| {
        let outputs = (unit * share)..shape.o.min((unit + 1) * share);
        scratch(row, 0, |sum, _| {
            for o in outputs {
                patches::add_parts(&partial[o * row..], size, sums, sum);
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
