//! The weight gradient: for every tap a product over all pixels.
//!
//! Both operands lie on one grid, wide enough for what the taps reach: rows of outputs have zeros after them. All pixels
//! of all images are then one row of pairs, and a tap is a distance along it. The input has a second copy whose pairs
//! begin with odd pixels, for odd distances, and one map for each remainder by the stride.

use crate::kernels::conv::implicit::weight::add_up;
use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::bf16::{amx, pack};
use crate::kernels::gemm::{LINE, PARTIALS, UNITS};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::simd::PANEL;

/// Outputs and inputs of the part of the gradient that one unit makes.
const PART: (usize, usize) = (64, 64);
/// Groups of 16 pairs that are summed in registers, and the fewest for a partial sum of their own.
const GROUPS: (usize, usize) = (48, 16);

/// The grid: rows and columns of an image, and groups of 16 pairs of pixels of all images.
struct Grid<'a> {
    shape: &'a ConvShape,
    rows: usize,
    columns: usize,
    groups: usize,
}

impl<'a> Grid<'a> {
    fn new(shape: &'a ConvShape) -> Self {
        let rows = shape.oh + (shape.kh - 1) / shape.stride[0];
        let columns = shape.ow + (shape.kw - 1) / shape.stride[1];
        Self { shape, rows, columns, groups: (shape.n * rows * columns).div_ceil(2 * LINE) }
    }

    /// Image, row and column of a pixel, if it is one.
    fn place(&self, pixel: usize) -> Option<(usize, usize, usize)> {
        let (row, column) = (pixel / self.columns, pixel % self.columns);
        let (n, row) = (row / self.rows, row % self.rows);
        (n < self.shape.n).then_some((n, row, column))
    }

    /// What `dy` has at a pixel; nothing beyond the outputs.
    fn output<'x>(&self, dy: &'x [f32], pixel: usize) -> &'x [f32] {
        let ConvShape { o, oh, ow, .. } = *self.shape;
        match self.place(pixel) {
            Some((n, row, column)) if row < oh && column < ow => {
                &dy[((n * oh + row) * ow + column) * o..][..o]
            }
            _ => &[],
        }
    }

    /// What `x` has at a pixel of the map of a remainder; nothing in the padding.
    fn input<'x>(&self, x: &'x [f32], remainder: (usize, usize), pixel: usize) -> &'x [f32] {
        let ConvShape { h, w, c, stride, padding, .. } = *self.shape;
        let Some((n, row, column)) = self.place(pixel) else { return &[] };
        let row = (row * stride[0] + remainder.0).checked_sub(padding[0]).filter(|row| *row < h);
        let column = (column * stride[1] + remainder.1).checked_sub(padding[2]).filter(|column| *column < w);
        match (row, column) {
            (Some(row), Some(column)) => &x[((n * h + row) * w + column) * c..][..c],
            _ => &[],
        }
    }

    /// Remainder and distance of a tap.
    fn tap(&self, tap: usize) -> ((usize, usize), usize) {
        let (i, j, stride) = (tap / self.shape.kw, tap % self.shape.kw, self.shape.stride);
        ((i % stride[0], j % stride[1]), i / stride[0] * self.columns + j / stride[1])
    }

    /// Words from one group of outputs to the next: an odd number of cache lines.
    fn pitch(&self) -> usize {
        self.shape.o.div_ceil(LINE) * LINE * LINE + LINE
    }

    /// `dy` as `[group][line of outputs][output][pair]`.
    fn outputs(&self, dy: &[f32]) -> Buffer {
        let pitch = self.pitch();
        let mut words = Buffer::new(self.groups * pitch);
        let (out, share) = (Disjoint::new(&mut words), self.groups.div_ceil(UNITS).max(1));
        parallel::for_each(self.groups.div_ceil(share), |unit| {
            let (first, count) = (unit * share, share.min(self.groups - unit * share));
            // SAFETY: shares do not overlap; only called on machines with the instructions.
            unsafe {
                let to = pack::words_mut(out.slice(first * pitch, count * pitch));
                let row = |step: usize| self.output(dy, first * 2 * LINE + step);
                pack::turned::<1>(row, count * 2 * LINE, self.shape.o, to, (LINE * LINE, pitch));
            }
        });
        words
    }

    /// A map as `[pair][channel]`, the pairs beginning with even pixels or odd ones, with zeros for what taps reach
    /// beyond it.
    fn inputs(&self, x: &[f32], remainder: (usize, usize), odd: usize) -> Buffer {
        let (c, furthest) = (self.shape.c, self.tap(self.shape.kh * self.shape.kw - 1).1);
        let pairs = self.groups * LINE + furthest / 2 + 1;
        let mut words = Buffer::new(pairs * c);
        let (out, share) = (Disjoint::new(&mut words), pairs.div_ceil(UNITS));
        parallel::for_each(pairs.div_ceil(share), |unit| {
            for pair in (unit * share)..pairs.min((unit + 1) * share) {
                let pixel = |i: usize| self.input(x, remainder, 2 * pair + odd + i);
                // SAFETY: every pair belongs to one unit; only called on machines with the instructions.
                unsafe {
                    let to = pack::words_mut(out.slice(pair * c, c));
                    pack::side_by_side(pixel(0), pixel(1), to);
                }
            }
        });
        words
    }
}

/// `dw` from `x` and `dy`.
pub(in crate::kernels::conv::implicit) fn run(shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (grid, taps) = (Grid::new(shape), shape.kh * shape.kw);
    if grid.groups == 0 {
        return dw.fill(0.0);
    }
    let outputs = grid.outputs(dy);
    let mut kinds: Vec<((usize, usize), usize)> = Vec::new();
    let mut places = Vec::with_capacity(taps);
    for (remainder, distance) in (0..taps).map(|tap| grid.tap(tap)) {
        let kind = (remainder, distance % 2);
        let known = kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
            kinds.push(kind);
            kinds.len() - 1
        });
        places.push((known, distance / 2));
    }
    let maps: Vec<_> = kinds.iter().map(|&(remainder, odd)| grid.inputs(x, remainder, odd)).collect();
    let size = shape.weights();
    let parts = (shape.o.div_ceil(PART.0), shape.c.div_ceil(PART.1));
    let most = (PARTIALS / size.max(1)).min(grid.groups / GROUPS.1).max(1);
    let sums = UNITS.div_ceil(parts.0 * parts.1).min(most);
    let mut partial = Buffer::new(sums * size);
    let out = Disjoint::new(&mut partial);
    parallel::for_each(parts.0 * parts.1 * sums, |unit| {
        let (sum, part) = (unit / (parts.0 * parts.1), unit % (parts.0 * parts.1));
        let (output, input) = (part / parts.1 * PART.0, part % parts.1 * PART.1);
        let (start, end) = (grid.groups * sum / sums, grid.groups * (sum + 1) / sums);
        let task = Task {
            grid: &grid,
            outputs: pack::words(&outputs),
            maps: &maps,
            places: &places,
            out: &out,
            start: sum * size,
        };
        for first in (start..end).step_by(GROUPS.0) {
            let count = GROUPS.0.min(end - first);
            for output in (output..shape.o.min(output + PART.0)).step_by(2 * LINE) {
                for input in (input..shape.c.min(input + PART.1)).step_by(PANEL) {
                    task.multiply(output, input, (first, count), first > start);
                }
            }
        }
    });
    add_up(shape, &partial, sums, dw);
}

struct Task<'a> {
    grid: &'a Grid<'a>,
    outputs: &'a [u32],
    maps: &'a [Buffer],
    /// Map and pair where each tap begins.
    places: &'a [(usize, usize)],
    out: &'a Disjoint<'a>,
    /// The partial sum.
    start: usize,
}

impl Task<'_> {
    /// Products of all taps for two lines of outputs and a panel of inputs, over some groups of pixels.
    fn multiply(&self, output: usize, input: usize, (first, count): (usize, usize), add: bool) {
        let (ConvShape { c, .. }, pitch) = (*self.grid.shape, self.grid.pitch());
        let c_row = self.places.len() * c;
        let a = &self.outputs[first * pitch + output * LINE..][..(count - 1) * pitch + 2 * LINE * LINE];
        // SAFETY: only called on machines with the instructions.
        let mut registers = unsafe { amx::Registers::new() };
        for (tap, &(map, pair)) in self.places.iter().enumerate() {
            let b = &pack::words(&self.maps[map])[(first * LINE + pair) * c + input..]
                [..(count * LINE - 1) * c + PANEL];
            let place = self.start + output * c_row + tap * c + input;
            // SAFETY: these inputs of these outputs belong to this unit.
            let sums = unsafe { self.out.pointer(place, (2 * LINE - 1) * c_row + PANEL) };
            let block = amx::Block {
                a: a.as_ptr(),
                a_row: LINE,
                a_step: pitch,
                a_block: LINE * LINE,
                lost: None,
                b: b.as_ptr(),
                b_row: c,
                taps: &[0],
                groups: count,
                c: sums,
                c_row,
                c_block: LINE * c_row,
                d: if add { sums } else { std::ptr::null() },
                d_row: c_row,
                d_block: LINE * c_row,
                columns: PANEL,
            };
            // SAFETY: both operands reach as far as the slices, and channels come in groups of 32.
            unsafe { registers.multiply(&block, [LINE; 2]) };
        }
    }
}
