//! The gradient of the weights: for every position the product of transformed gradients and transformed inputs,
//! `[O, tiles] x [tiles, C]`, summed over all tiles.
//!
//! Tiles go chunk by chunk: all cores transform a chunk, then each takes some positions. So every sum is kept in one
//! place and grows in the order of the tiles. Where one chunk holds all tiles and the weights are many, each core takes
//! a square of outputs and inputs at all positions instead, and transforms its sums back while they are in its cache.

use std::ops::Range;

use super::tiles::Tiles;
use super::transform::{Job, Kernel, MOST, Step, kernel};
use super::{LINE, Variant, pitch};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::{Level, PANEL, Panel, Tile};

/// Taps of a kernel.
const TAPS: usize = 9;
/// Tiles that one core transforms at a time.
const FEW: usize = 8;
/// Outputs and inputs of one square.
const SQUARE: usize = 64;
/// Fewest squares worth it.
const SQUARES: usize = 16;

/// `dw` `[c, o]` from `x` and `dy`, whose channels are whole vectors.
pub(super) fn backward(
    level: Level,
    v: Variant,
    tiles: &Tiles,
    (x, dy): (&[f32], &[f32]),
    dw: &mut [f32],
    (c, o): (usize, usize),
) {
    assert!(
        x.len() >= tiles.input.elements() && dy.len() >= tiles.output.elements() && dw.len() >= o * c * TAPS
    );
    if tiles.count() == 0 {
        return dw.fill(0.0);
    }
    let chunk = chunk(tiles);
    let squares = chunk == tiles.count() && o.div_ceil(SQUARE) * c.div_ceil(SQUARE) >= SQUARES;
    let side = |channels, block| Side::new(channels, chunk, if squares { block } else { channels });
    let (inputs, gradients) = (side(tiles.input.c, PANEL), side(tiles.output.c, LINE));
    let [input, gradient, unweight] =
        [Step::Input, Step::Gradient, Step::Unweight].map(|step| kernel(level, v, step));
    let zeros = Buffer::zeros(tiles.input.c.max(tiles.output.c));
    let work = Work {
        level,
        positions: v.t() * v.t(),
        tiles,
        source: Source { x, dy, zeros: &zeros },
        kernels: [input, gradient, unweight],
        inputs,
        gradients,
        extents: (c, o),
        out: Disjoint::new(dw),
    };
    if squares { work.by_squares() } else { work.by_positions(chunk) }
}

/// Tiles of one chunk.
fn chunk(tiles: &Tiles) -> usize {
    let most = match tiles.variant {
        Variant::F4 => 256,
        Variant::F2 => 512,
    };
    let count = tiles.count();
    count.div_ceil(count.div_ceil(most))
}

/// How the transformed tiles of one operand lie: `[positions, blocks, tiles, channels of a block]`.
#[derive(Debug, Clone, Copy)]
struct Side {
    channels: usize,
    /// Channels of a block; the last may have fewer.
    block: usize,
    /// Most tiles.
    tiles: usize,
    /// Distance of positions.
    position: usize,
}

impl Side {
    fn new(channels: usize, tiles: usize, block: usize) -> Self {
        Self { channels, block, tiles, position: tiles * pitch(channels) + LINE }
    }

    fn blocks(&self) -> usize {
        self.channels.div_ceil(self.block)
    }

    /// Channels of a block.
    fn width(&self, block: usize) -> usize {
        self.block.min(self.channels - block * self.block)
    }

    /// Where a channel of the first tile lies, and the distance of tiles there.
    fn place(&self, channel: usize) -> (usize, usize) {
        if self.block == self.channels {
            return (channel, pitch(self.channels));
        }
        let block = channel / self.block;
        (block * self.block * self.tiles + channel % self.block, self.width(block))
    }
}

#[derive(Clone, Copy)]
struct Source<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    zeros: &'a [f32],
}

struct Work<'a> {
    level: Level,
    positions: usize,
    tiles: &'a Tiles,
    source: Source<'a>,
    /// Of inputs, gradients and sums.
    kernels: [Kernel; 3],
    inputs: Side,
    gradients: Side,
    /// C and O as they are.
    extents: (usize, usize),
    out: Disjoint<'a>,
}

impl Work<'_> {
    fn by_positions(&self, chunk: usize) {
        let ((c, o), count) = (self.extents, self.tiles.count());
        let (width, stride) = (self.inputs.channels, o * self.inputs.channels + LINE);
        let mut inputs = Buffer::new(self.positions * self.inputs.position);
        let mut gradients = Buffer::new(self.positions * self.gradients.position);
        let mut sums = Buffer::new(self.positions * stride);
        for first in (0..count).step_by(chunk) {
            let taken = first..count.min(first + chunk);
            self.transform(taken.clone(), &mut inputs, &mut gradients);
            let sums = Disjoint::new(&mut sums);
            parallel::for_each(self.positions, |position| {
                // SAFETY: every position has its own sums.
                let sums = unsafe { sums.slice(position * stride, o * width) };
                let a = &gradients[position * self.gradients.position..][..self.gradients.position];
                let b = &inputs[position * self.inputs.position..][..self.inputs.position];
                self.multiply((0, o), (0, width), taken.len(), (a, b), first > 0, sums);
            });
        }
        parallel::for_each(o, |row| {
            let mut src = [std::ptr::null(); MOST];
            for (position, src) in src.iter_mut().enumerate().take(self.positions) {
                *src = sums[position * stride + row * width..][..width].as_ptr();
            }
            // SAFETY: rows of the gradient do not overlap, and the sums have all channels.
            unsafe { self.unweight(&src, 0, self.out.slice(row * c * TAPS, c * TAPS)) };
        });
    }

    fn by_squares(&self) {
        let ((c, o), count) = (self.extents, self.tiles.count());
        let mut inputs = Buffer::new(self.positions * self.inputs.position);
        let mut gradients = Buffer::new(self.positions * self.gradients.position);
        self.transform(0..count, &mut inputs, &mut gradients);
        let squares = c.div_ceil(SQUARE);
        parallel::for_each(o.div_ceil(SQUARE) * squares, |unit| {
            let (down, across) = (unit / squares * SQUARE, unit % squares * SQUARE);
            let (rows, width) = (SQUARE.min(o - down), SQUARE.min(self.inputs.channels - across));
            let stride = SQUARE * width + LINE;
            scratch(self.positions * stride, 0, |sums, _| {
                let mut src = [std::ptr::null(); MOST];
                for (position, sums) in sums.chunks_exact_mut(stride).enumerate() {
                    let a = &gradients[position * self.gradients.position..][..self.gradients.position];
                    let b = &inputs[position * self.inputs.position..][..self.inputs.position];
                    self.multiply((down, rows), (across, width), count, (a, b), false, sums);
                    src[position] = sums.as_ptr();
                }
                let used = width.min(c - across);
                for row in 0..rows {
                    let first = (down + row) * c + across;
                    // SAFETY: squares of the gradient do not overlap, and the sums have all their channels.
                    unsafe { self.unweight(&src, row * width, self.out.slice(first * TAPS, used * TAPS)) };
                }
            });
        });
    }

    /// The sums over the tiles of a chunk at one position, for some outputs and inputs (first, count).
    fn multiply(
        &self,
        (down, rows): (usize, usize),
        (across, width): (usize, usize),
        tiles: usize,
        (gradients, inputs): (&[f32], &[f32]),
        add: bool,
        sums: &mut [f32],
    ) {
        assert!(sums.len() >= rows * width && tiles <= self.inputs.tiles && tiles <= self.gradients.tiles);
        for panel in (0..width).step_by(PANEL) {
            let kernel = Panel::new(self.level, PANEL.min(width - panel));
            let (b, b_step) = self.inputs.place(across + panel);
            for line in (0..rows).step_by(LINE) {
                let (a, a_step) = self.gradients.place(down + line);
                let tile = Tile {
                    a: gradients[a..].as_ptr(),
                    a_row: 1,
                    a_step,
                    b: inputs[b..].as_ptr(),
                    b_step,
                    c: sums[line * width + panel..].as_mut_ptr(),
                    c_row: width,
                    depth: tiles,
                    add,
                };
                // SAFETY: both operands hold the tiles of the chunk, and `sums` all rows.
                unsafe { kernel.run(LINE.min(rows - line), &tile) };
            }
        }
    }

    /// Transforms the inputs and gradients of the tiles `taken`.
    fn transform(&self, taken: Range<usize>, inputs: &mut [f32], gradients: &mut [f32]) {
        let Source { x, dy, zeros } = self.source;
        let (inputs, gradients) = (Disjoint::new(inputs), Disjoint::new(gradients));
        let pixels = |tile| {
            // SAFETY: pixels of the map, whose length was asserted.
            let given = self.tiles.outputs(tile, zeros.as_ptr(), |at| unsafe { dy.as_ptr().add(at) });
            (self.tiles.inputs(tile, x, zeros), given)
        };
        parallel::for_each(taken.len().div_ceil(FEW), |few| {
            let (mut to_inputs, mut to_gradients) =
                ([std::ptr::null_mut(); MOST], [std::ptr::null_mut(); MOST]);
            for position in 0..self.positions {
                let (at, len) = (self.inputs.position, self.gradients.position);
                // SAFETY: only the places of these few tiles are written through these pointers.
                unsafe {
                    to_inputs[position] = inputs.pointer(position * at, at);
                    to_gradients[position] = gradients.pointer(position * len, len);
                }
            }
            let mut next = pixels(taken.start + few * FEW);
            for i in few * FEW..taken.len().min((few + 1) * FEW) {
                let (read, given) = next;
                next = pixels((taken.start + i + 1).min(taken.end - 1));
                let (ahead, fresh) = self.tiles.fresh(&next.0);
                // SAFETY: pixels and zeros have all channels of their map, a position room for all tiles of the chunk.
                unsafe {
                    scatter(self.kernels[0], &self.inputs, i, (&read, &to_inputs), &ahead[..fresh]);
                    scatter(self.kernels[1], &self.gradients, i, (&given, &to_gradients), &next.1[..fresh]);
                }
            }
        });
    }

    /// Transforms sums into the gradient of the weights of one output and some inputs.
    ///
    /// # Safety
    /// From `from` on, `src` has as many channels at every position as `dw`, up to whole vectors.
    unsafe fn unweight(&self, src: &[*const f32], from: usize, dw: &mut [f32]) {
        for (line, dw) in dw.chunks_mut(LINE * TAPS).enumerate() {
            let mut taps = [[0f32; LINE]; TAPS];
            let dst = taps.each_mut().map(|tap| tap.as_mut_ptr());
            let from = (from + line * LINE, 0);
            let job = Job { src, from, dst: &dst, to: (0, 0), chunks: 1, ahead: &[], add: false };
            // SAFETY: the caller's promise; `taps` has room for one line.
            unsafe { (self.kernels[2])(&job) };
            for (channel, dw) in dw.chunks_exact_mut(TAPS).enumerate() {
                for (dw, tap) in dw.iter_mut().zip(&taps) {
                    *dw = tap[channel];
                }
            }
        }
    }
}

/// Transforms one tile into row `row` of all blocks of `side`.
///
/// # Safety
/// `src` is readable and `dst` writable for what `side` holds.
unsafe fn scatter(
    kernel: Kernel,
    side: &Side,
    row: usize,
    (src, dst): (&[*const f32], &[*mut f32]),
    ahead: &[*const f32],
) {
    for block in 0..side.blocks() {
        let (first, pitch) = side.place(block * side.block);
        let job = Job {
            src,
            from: (block * side.block, LINE),
            dst,
            to: (first + row * pitch, LINE),
            chunks: side.width(block) / LINE,
            ahead,
            add: false,
        };
        // SAFETY: the caller's promise.
        unsafe { kernel(&job) };
    }
}
