//! The convolution itself, which is also the gradient of the input with other weights.
//!
//! There are two orders of work. By tiles: one task takes some tiles through all three phases, so that what lies in
//! between stays in the cache of its core; the transformed weights are read again by every task. By panels, for large
//! weights and few tiles: all inputs are transformed first, then one task takes some outputs of all tiles, for which it
//! transforms the weights just before they are used.

use std::ops::Range;

use super::packed::{Packed, Weights};
use super::tiles::Tiles;
use super::transform::{Job, Kernel, MOST, Step, kernel};
use super::{LINE, Variant, pitch};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::{Level, PANEL, Panel, Tile};

/// Tiles of one task: two whole tiles of the product kernel.
const BLOCK: usize = 24;
/// Tiles whose inputs one task transforms, by panels.
const FEW: usize = 8;
/// Channels of the weights that a task transforms at a time, by panels.
const DEPTH: usize = 128;
/// Fewest panels, and most elements of transformed inputs, of the order by panels.
const PANELS: usize = 8;
const INPUTS: usize = 3 << 20;

/// The transforms of a convolution at one level.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    level: Level,
    pub positions: usize,
    input: Kernel,
    output: Kernel,
    pub weight: Kernel,
}

impl Kernels {
    pub(super) fn new(level: Level, v: Variant) -> Self {
        let [input, output, weight] =
            [Step::Input, Step::Output, Step::Weight].map(|step| kernel(level, v, step));
        Self { level, positions: v.t() * v.t(), input, output, weight }
    }
}

/// Distances in a buffer `[positions, tiles, channels]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub tile: usize,
    pub position: usize,
}

impl Rows {
    /// Distances for `tiles` tiles of `channels` that keep rows from pushing each other out of the cache.
    pub(super) fn new(tiles: usize, channels: usize) -> Self {
        let tile = pitch(channels);
        Self { tile, position: tiles * tile + LINE }
    }
}

/// The outputs of all tiles of `x`, into `y` or added to it.
pub(super) fn run(kernels: &Kernels, tiles: &Tiles, x: &[f32], weights: &Weights, y: &mut [f32], add: bool) {
    assert!(y.len() >= tiles.output.elements(), "winograd: output too short");
    assert!(weights.depth() == tiles.input.c, "winograd: weights of other channels");
    let work = Work { kernels, tiles, x, zeros: Buffer::zeros(tiles.input.c), out: Disjoint::new(y), add };
    let inputs = Rows::new(tiles.count(), tiles.input.c).position * kernels.positions;
    if weights.columns.panels() >= PANELS && inputs <= INPUTS {
        work.by_panels(weights);
    } else {
        let packed = Packed::new(kernels, weights);
        work.by_tiles(&packed);
    }
}

struct Work<'a> {
    kernels: &'a Kernels,
    tiles: &'a Tiles,
    x: &'a [f32],
    zeros: Buffer,
    out: Disjoint<'a>,
    add: bool,
}

impl Work<'_> {
    fn by_tiles(&self, packed: &Packed) {
        let count = self.tiles.count();
        let blocks = count.div_ceil(BLOCK);
        let (positions, o) = (self.kernels.positions, self.tiles.output.c);
        parallel::for_each(blocks, |block| {
            let taken = block * count / blocks..(block + 1) * count / blocks;
            let inputs = Rows::new(taken.len(), self.tiles.input.c);
            let products = Rows::new(taken.len(), o);
            scratch(inputs.position * positions, products.position * positions + o, |v, m| {
                let (m, dump) = m.split_at_mut(products.position * positions);
                let mut dst = [std::ptr::null_mut(); MOST];
                for (dst, v) in dst.iter_mut().zip(v.chunks_exact_mut(inputs.position)) {
                    *dst = v.as_mut_ptr();
                }
                // SAFETY: every position of `v` has room for the tiles taken.
                unsafe { self.transform(taken.clone(), &dst, inputs.tile) };
                for (position, m) in m.chunks_exact_mut(products.position).enumerate() {
                    let v = &v[position * inputs.position..][..inputs.position];
                    for strip in packed.columns.strips(0..packed.columns.panels()) {
                        let tile = Tile {
                            a: v.as_ptr(),
                            a_row: inputs.tile,
                            a_step: 1,
                            b: packed.strip(position, &strip).as_ptr(),
                            b_step: strip.step,
                            c: m[strip.panel * PANEL..].as_mut_ptr(),
                            c_row: products.tile,
                            depth: packed.depth,
                            add: false,
                        };
                        let kernels = strip.kernels(self.kernels.level, packed.distance());
                        // SAFETY: a position of `v` and `m` holds the tiles taken, each panel `depth` rows.
                        unsafe { kernels.run(taken.len(), &tile) };
                    }
                }
                // SAFETY: blocks have their own tiles, and every position of `m` was filled.
                unsafe { self.finish(taken.clone(), m, products, 0..o, dump) };
            });
        });
    }

    fn by_panels(&self, weights: &Weights) {
        let (count, positions) = (self.tiles.count(), self.kernels.positions);
        let inputs = Rows::new(count, self.tiles.input.c);
        let mut v = Buffer::new(inputs.position * positions);
        let out = Disjoint::new(&mut v);
        parallel::for_each(count.div_ceil(FEW), |block| {
            let taken = block * FEW..count.min((block + 1) * FEW);
            let mut dst = [std::ptr::null_mut(); MOST];
            for (position, dst) in dst.iter_mut().enumerate().take(positions) {
                let place = position * inputs.position + taken.start * inputs.tile;
                // SAFETY: every block has its own rows.
                *dst = unsafe { out.pointer(place, taken.len() * inputs.tile) };
            }
            // SAFETY: as above.
            unsafe { self.transform(taken, &dst, inputs.tile) };
        });
        let depth = weights.depth();
        parallel::for_each(weights.columns.panels(), |panel| {
            let width = weights.columns.width(panel);
            let products = Rows { tile: width, position: count * width + LINE };
            let stride = DEPTH * width + LINE;
            let room = Weights::room() + stride * positions;
            scratch(room, products.position * positions + width, |room, m| {
                let (u, room) = room.split_at_mut(stride * positions);
                let (m, dump) = m.split_at_mut(products.position * positions);
                for first in (0..depth).step_by(DEPTH) {
                    let channels = first..depth.min(first + DEPTH);
                    let mut dst = [std::ptr::null_mut(); MOST];
                    for (dst, u) in dst.iter_mut().zip(u.chunks_exact_mut(stride)) {
                        *dst = u.as_mut_ptr();
                    }
                    // SAFETY: `u` has room for DEPTH channels at every position.
                    unsafe { weights.transform(self.kernels, panel, channels.clone(), &dst, room) };
                    for (position, m) in m.chunks_exact_mut(products.position).enumerate() {
                        let tile = Tile {
                            a: v[position * inputs.position + first..].as_ptr(),
                            a_row: inputs.tile,
                            a_step: 1,
                            b: u[position * stride..].as_ptr(),
                            b_step: width,
                            c: m.as_mut_ptr(),
                            c_row: width,
                            depth: channels.len(),
                            add: first > 0,
                        };
                        // SAFETY: a position of `v` and `m` holds all tiles, and one of `u` these channels.
                        unsafe { Panel::new(self.kernels.level, width).run(count, &tile) };
                    }
                }
                let outputs = panel * PANEL..panel * PANEL + width;
                // SAFETY: panels have their own channels, and every position of `m` was filled.
                unsafe { self.finish(0..count, m, products, outputs, dump) };
            });
        });
    }

    /// Transforms the inputs of the tiles `taken` into rows `pitch` apart, for every position from one of `dst` on.
    ///
    /// # Safety
    /// Every pointer in `dst` is good for writing that many rows of all channels.
    unsafe fn transform(&self, taken: Range<usize>, dst: &[*mut f32], pitch: usize) {
        let pixels = |tile| self.tiles.inputs(tile, self.x, &self.zeros);
        let mut next = pixels(taken.start);
        for tile in taken.clone() {
            let src = next;
            next = pixels((tile + 1).min(self.tiles.count() - 1));
            let (ahead, fresh) = self.tiles.fresh(&next);
            let job = Job {
                src: &src,
                from: (0, LINE),
                dst,
                to: ((tile - taken.start) * pitch, LINE),
                chunks: self.tiles.input.c / LINE,
                ahead: &ahead[..fresh],
                add: false,
            };
            // SAFETY: the pixels (or zeros) have all channels of the input; `dst` by the caller's promise.
            unsafe { (self.kernels.input)(&job) };
        }
    }

    /// Transforms the products `m` of the tiles `taken` into the channels `outputs`. `dump` takes what lies beyond the
    /// map.
    ///
    /// # Safety
    /// No other task has these channels of these tiles, and `m` holds them for every position.
    unsafe fn finish(
        &self,
        taken: Range<usize>,
        m: &[f32],
        rows: Rows,
        outputs: Range<usize>,
        dump: &mut [f32],
    ) {
        assert!(
            dump.len() >= outputs.len()
                && rows.tile >= outputs.len()
                && rows.position >= taken.len() * rows.tile
        );
        let mut src = [std::ptr::null(); MOST];
        for (src, m) in src.iter_mut().zip(m.chunks_exact(rows.position)) {
            *src = m.as_ptr();
        }
        let dump = dump.as_mut_ptr();
        for tile in taken.clone() {
            let job = Job {
                src: &src,
                from: ((tile - taken.start) * rows.tile, LINE),
                // SAFETY: the task alone has these outputs, by the caller's promise.
                dst: &self
                    .tiles
                    .outputs(tile, dump, |at| unsafe { self.out.pointer(at + outputs.start, outputs.len()) }),
                to: (0, LINE),
                chunks: outputs.len() / LINE,
                ahead: &[],
                add: self.add,
            };
            // SAFETY: the products by the caller's promise; a pixel and `dump` have all channels taken.
            unsafe { (self.kernels.output)(&job) };
        }
    }
}
