//! Products with a right operand that is made of weights: forward, and the gradient of the input.

use std::ops::Range;

use super::tile::{Next, Tile};
use super::{Extents, Kernel, amx, pack};
use crate::kernels::gemm::{Columns, LINE, UNITS};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::{PANEL, TILE_ROWS};

/// Most rows for which a unit packs its own panels and takes all rows, and the fewest panels for it.
const FEW: (usize, usize) = (512, 8);
/// Pairs of the left operand that are read again for every panel: part of the second-level cache.
const HELD: usize = 96 << 10;

impl Kernel {
    /// Rows that become bf16 at a time: whole tiles. A unit has one or two times as many.
    fn chunk(self) -> usize {
        match self {
            Self::Avx512 => 4 * TILE_ROWS,
            Self::Amx | Self::AmxSplit => 6 * LINE,
        }
    }

    /// Fewest and most pairs of the depth of one pass. A panel of the right operand with the most is 64 KiB, or 32 where
    /// it has to stay in the first-level cache.
    fn pass(self) -> (usize, usize) {
        match self {
            Self::Avx512 => (8 * LINE, 32 * LINE),
            Self::Amx => (8 * LINE, 16 * LINE),
            Self::AmxSplit => (8 * LINE, 8 * LINE),
        }
    }
}

/// `y = x w^T + bias`.
pub(super) fn forward(
    kernel: Kernel,
    (rows, c, o): Extents,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let columns = Columns(o);
    let pack = |panel: usize, steps: Range<usize>, to: &mut [u32]| {
        let src = &w[panel * PANEL * c + steps.start..];
        // SAFETY: only called on machines with the instructions.
        unsafe {
            let width = (columns.used(panel), columns.width(panel));
            match kernel.parts() {
                1 => pack::transposed::<1>(src, c, steps.len(), width, to),
                _ => pack::transposed::<2>(src, c, steps.len(), width, to),
            }
        }
    };
    Product { kernel, rows, depth: c, columns, a: x, bias, add: false }.run(pack, y);
}

/// `dx = dy w`, or added to `dx`.
pub(super) fn backward_data(
    kernel: Kernel,
    (rows, c, o): Extents,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    let columns = Columns(c);
    let pack = |panel: usize, steps: Range<usize>, to: &mut [u32]| {
        let src = &w[steps.start * c + panel * PANEL..];
        // SAFETY: only called on machines with the instructions.
        unsafe {
            match kernel.parts() {
                1 => pack::columns::<2, 1>(src, c, steps.len(), columns.used(panel), to, 0),
                _ => pack::columns::<2, 2>(src, c, steps.len(), columns.used(panel), to, 0),
            }
        }
    };
    Product { kernel, rows, depth: o, columns, a: dy, bias: None, add }.run(pack, dx);
}

/// `y = a b + bias` or `y (+)= a b` with `a` `[rows, depth]` and a right operand of `columns`.
struct Product<'a> {
    kernel: Kernel,
    rows: usize,
    depth: usize,
    columns: Columns,
    a: &'a [f32],
    bias: Option<&'a [f32]>,
    add: bool,
}

/// Operands of one pass over a part of the depth.
struct Pass<'a> {
    /// Rows of pairs, `pitch` apart.
    a: &'a [u32],
    pitch: usize,
    /// A panel.
    b: &'a [u32],
    pairs: usize,
    /// Whether this pass is the first.
    first: bool,
}

impl Product<'_> {
    /// The product with the panels that `pack` fills, for the steps of the depth that it is given.
    fn run(&self, pack: impl Fn(usize, Range<usize>, &mut [u32]) + Sync, y: &mut [f32]) {
        let &Self { rows, depth, columns, .. } = self;
        assert!(
            self.a.len() >= rows * depth && y.len() >= rows * columns.0,
            "matrix product: operands too short"
        );
        assert!(self.bias.is_none_or(|bias| bias.len() >= columns.0), "matrix product: bias too short");
        let out = Disjoint::new(y);
        if rows <= FEW.0 && columns.panels() >= FEW.1 {
            self.few(&pack, &out)
        } else {
            self.many(&pack, &out)
        }
    }

    /// Pairs of the depth, up to whole vectors: what is beyond the depth is zero.
    fn pairs(&self) -> usize {
        self.depth.div_ceil(2).next_multiple_of(LINE)
    }

    /// Pairs of one pass where `rows` are held, a number of whole vectors, and the distance of the rows: an odd number
    /// of cache lines, so that the rows of a tile do not push each other out.
    fn pass(&self, rows: usize) -> (usize, usize) {
        let (fewest, most) = self.kernel.pass();
        let most = (HELD / rows.max(1)).clamp(fewest, most);
        let passes = self.pairs().div_ceil(most).max(1);
        let pass = self.pairs().div_ceil(passes).next_multiple_of(LINE).max(LINE);
        (pass, (self.kernel.parts() * pass) | LINE)
    }

    /// Steps of the depth of the pass that begins with `pair`.
    fn steps(&self, pair: usize, pass: usize) -> Range<usize> {
        2 * pair..self.depth.min(2 * (pair + pass))
    }

    /// Some rows of the left operand as bf16.
    fn pack_left(&self, rows: Range<usize>, steps: Range<usize>, to: &mut [u32], pitch: usize) {
        let src = &self.a[rows.start * self.depth + steps.start..rows.end * self.depth];
        // SAFETY: only called on machines with the instructions.
        unsafe {
            match self.kernel.parts() {
                1 => pack::rows::<1>(src, self.depth, steps.len(), to, pitch),
                _ => pack::rows::<2>(src, self.depth, steps.len(), to, pitch),
            }
        }
    }

    /// A unit takes all rows for some panels, which it packs itself; the left operand is packed once.
    fn few(&self, pack: &(impl Fn(usize, Range<usize>, &mut [u32]) + Sync), out: &Disjoint) {
        let &Self { rows, columns, .. } = self;
        let (pass, pitch) = self.pass(rows);
        let chunk = self.kernel.chunk();
        let (passes, chunks) = (self.pairs().div_ceil(pass), rows.div_ceil(chunk));
        let mut left = Buffer::new(passes * rows * pitch);
        let parts = Disjoint::new(&mut left);
        parallel::for_each(passes * chunks, |part| {
            let (pass_at, first) = (part / chunks, part % chunks * chunk);
            let taken = first..rows.min(first + chunk);
            // SAFETY: parts do not overlap.
            let to = unsafe { parts.slice((pass_at * rows + first) * pitch, taken.len() * pitch) };
            self.pack_left(taken, self.steps(pass_at * pass, pass), pack::words_mut(to), pitch);
        });
        let left = pack::words(&left);
        let group = columns.panels().div_ceil(UNITS);
        parallel::for_each(columns.panels().div_ceil(group), |unit| {
            scratch(self.kernel.parts() * pass * PANEL, 0, |b, _| {
                let b = pack::words_mut(b);
                for pass_at in 0..passes {
                    let steps = self.steps(pass_at * pass, pass);
                    let a = &left[pass_at * rows * pitch..][..rows * pitch];
                    for panel in unit * group..columns.panels().min((unit + 1) * group) {
                        pack(panel, steps.clone(), b);
                        let pairs = steps.len().div_ceil(2);
                        let mut next = Next::new(a, TILE_ROWS * pitch, a.len());
                        let pass = Pass { a, pitch, b, pairs, first: pass_at == 0 };
                        // SAFETY: this unit alone touches the columns of its panels.
                        unsafe { self.panel(0..rows, panel, &pass, &mut next, out) };
                    }
                }
            });
        });
    }

    /// A unit takes a block of rows, which it makes bf16, and some panels; these are packed once.
    fn many(&self, pack: &(impl Fn(usize, Range<usize>, &mut [u32]) + Sync), out: &Disjoint) {
        let &Self { rows, depth, columns, .. } = self;
        let chunk = self.kernel.chunk();
        let (pairs, (pass, pitch)) = (self.pairs(), self.pass(chunk));
        let rows_of_b = self.kernel.parts() * pairs;
        let mut right = Buffer::new(rows_of_b * columns.padded());
        let parts = Disjoint::new(&mut right);
        parallel::for_each(columns.panels(), |panel| {
            // SAFETY: panels do not overlap.
            let to = unsafe { parts.slice(panel * PANEL * rows_of_b, rows_of_b * columns.width(panel)) };
            pack(panel, 0..depth, pack::words_mut(to));
        });
        let right = pack::words(&right);
        let few = rows.div_ceil(2 * chunk) * columns.panels() < UNITS;
        let block = if few { chunk } else { 2 * chunk };
        let blocks = rows.div_ceil(block);
        let group =
            columns.panels().div_ceil(UNITS.div_ceil(blocks.max(1)).min(columns.panels()).max(1)).max(1);
        let groups = columns.panels().div_ceil(group);
        parallel::for_each(blocks * groups, |unit| {
            let (start, end) = (unit / groups * block, rows.min((unit / groups + 1) * block));
            let panels = (unit % groups * group)..columns.panels().min((unit % groups + 1) * group);
            scratch(chunk * pitch, 0, |a, _| {
                let a = pack::words_mut(a);
                for first in (start..end).step_by(chunk) {
                    let taken = first..end.min(first + chunk);
                    let a = &mut a[..taken.len() * pitch];
                    // The rows that follow, if they are all there is to the next chunk.
                    let soon = if pairs <= pass { taken.len() * depth } else { 0 };
                    let mut next = Next::new(&self.a[..rows * depth], taken.end * depth, soon);
                    for pair in (0..pairs).step_by(pass) {
                        let steps = self.steps(pair, pass);
                        self.pack_left(taken.clone(), steps.clone(), a, pitch);
                        for panel in panels.clone() {
                            let before = self.kernel.parts() * pair * columns.width(panel);
                            let b = &right[panel * PANEL * rows_of_b + before..];
                            let pass = Pass { a, pitch, b, pairs: steps.len().div_ceil(2), first: pair == 0 };
                            // SAFETY: this unit alone touches these columns of its rows.
                            unsafe { self.panel(taken.clone(), panel, &pass, &mut next, out) };
                        }
                    }
                }
            });
        });
    }

    /// One pass for some rows and a panel.
    ///
    /// # Safety
    /// Nobody else touches the columns of this panel in these rows of `out` meanwhile.
    unsafe fn panel(&self, rows: Range<usize>, panel: usize, pass: &Pass, next: &mut Next, out: &Disjoint) {
        let (pitch, used) = (self.columns.0, self.columns.used(panel));
        let parts = self.kernel.parts();
        let filled = parts * pass.pairs.next_multiple_of(LINE);
        assert!(
            pass.a.len() >= (rows.len() - 1) * pass.pitch + filled
                && pass.b.len() >= filled * self.columns.width(panel),
            "matrix product: packed operands too short"
        );
        // SAFETY: the caller's promise; the last row ends with the panel.
        let c = unsafe { out.pointer(rows.start * pitch + panel * PANEL, (rows.len() - 1) * pitch + used) };
        let (d, d_row) = match self.bias {
            Some(bias) if pass.first => (bias[panel * PANEL..].as_ptr(), 0),
            None if pass.first && !self.add => (std::ptr::null(), 0),
            _ => (c.cast_const(), pitch),
        };
        let (a, b) = (pass.a.as_ptr(), pass.b.as_ptr());
        if self.kernel != Kernel::Avx512 {
            let block = amx::Block {
                a,
                a_row: pass.pitch,
                a_step: parts * LINE,
                a_block: LINE * pass.pitch,
                lost: (parts > 1).then_some(LINE),
                b,
                b_row: self.columns.width(panel),
                taps: &[0],
                groups: pass.pairs.div_ceil(LINE),
                c,
                c_row: pitch,
                c_block: LINE * pitch,
                d,
                d_row,
                d_block: LINE * d_row,
                columns: used,
            };
            // SAFETY: as below.
            unsafe { amx::Registers::new().multiply_rows(block, rows.len()) };
            return;
        }
        let (next, next_step) = next.take(rows.len(), pass.pairs);
        let pairs = pass.pairs;
        let tile = Tile {
            a,
            a_row: pass.pitch,
            a_step: 1,
            b,
            pairs,
            c,
            c_row: pitch,
            d,
            d_row,
            columns: used,
            next,
            next_step,
        };
        // SAFETY: only called on machines with the instructions; extents as asserted, the rest by the caller's promise.
        unsafe { tile.run(rows.len()) };
    }
}
