//! Products with a right operand that is made of weights: forward, and the gradient of the input.

use std::ops::Range;

use super::tile::Tile;
use super::{Extents, pack};
use crate::kernels::gemm::{Columns, LINE, UNITS};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::{PANEL, TILE_ROWS};

/// Rows of one unit, and the fewest worth one: a whole number of tiles.
const BLOCK: (usize, usize) = (8 * TILE_ROWS, 4 * TILE_ROWS);
/// Rows that are held as bf16 at a time where panels are shared.
const CHUNK: usize = 4 * TILE_ROWS;
/// Most rows for which a unit packs its own panels and takes all rows.
const FEW: usize = 512;
/// Pairs of the left operand that a unit holds as bf16: part of the second-level cache.
const HELD: usize = 96 << 10;
/// Fewest and most pairs of the depth of one pass. A panel of the right operand with the most is 64 KiB.
const PASS: (usize, usize) = (8 * LINE, 32 * LINE);

/// `y = x w^T + bias`.
pub(super) fn forward(
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
        unsafe { pack::transposed(src, c, steps.len(), (columns.used(panel), columns.width(panel)), to) };
    };
    product((rows, c, columns), x, pack, (bias, false), y);
}

/// `dx = dy w`, or added to `dx`.
pub(super) fn backward_data((rows, c, o): Extents, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    let columns = Columns(c);
    let pack = |panel: usize, steps: Range<usize>, to: &mut [u32]| {
        let src = &w[steps.start * c + panel * PANEL..];
        // SAFETY: only called on machines with the instructions.
        unsafe { pack::columns::<2>(src, c, steps.len(), columns.used(panel), to, 0) };
    };
    product((rows, o, columns), dy, pack, (None, add), dx);
}

/// Rows and panels of a unit, and pairs of a pass.
#[derive(Debug, Clone, Copy)]
struct Cut {
    block: usize,
    group: usize,
    pass: usize,
}

impl Cut {
    fn new(rows: usize, pairs: usize, columns: Columns) -> Self {
        let panels = columns.panels();
        let (mut block, mut group) = (rows, panels.div_ceil(UNITS));
        if rows > FEW || panels < 8 {
            block = BLOCK.0;
            while block > BLOCK.1 && rows.div_ceil(block) * panels < UNITS {
                block /= 2;
            }
            let groups = UNITS.div_ceil(rows.div_ceil(block)).min(panels);
            group = panels.div_ceil(groups);
        }
        let passes = pairs.div_ceil((HELD / block.max(1)).clamp(PASS.0, PASS.1)).max(1);
        Self { block, group, pass: pairs.div_ceil(passes).next_multiple_of(LINE).max(LINE) }
    }
}

/// `y = a b + bias` or `y (+)= a b` with `a` `[rows, depth]` and the panels of `b` as `pack` fills them, for the steps of
/// the depth that it is given.
fn product(
    (rows, depth, columns): (usize, usize, Columns),
    a: &[f32],
    pack: impl Fn(usize, Range<usize>, &mut [u32]) + Sync,
    (bias, add): (Option<&[f32]>, bool),
    y: &mut [f32],
) {
    assert!(a.len() >= rows * depth && y.len() >= rows * columns.0, "matrix product: operands too short");
    assert!(bias.is_none_or(|bias| bias.len() >= columns.0), "matrix product: bias too short");
    let pairs = depth.div_ceil(2);
    let Cut { block, group, pass } = Cut::new(rows, pairs, columns);
    let (blocks, groups) = (rows.div_ceil(block.max(1)), columns.panels().div_ceil(group.max(1)));
    let packed = (blocks > 1).then(|| pack_all(depth, columns, &pack));
    let own = if packed.is_some() { 0 } else { pass * PANEL };
    // An odd number of cache lines, so that the rows of a tile do not push each other out.
    let pitch = pass | LINE;
    let out = Disjoint::new(y);
    let chunk = if packed.is_some() { CHUNK } else { block };
    parallel::for_each(blocks * groups, |unit| {
        let block = unit / groups * block..rows.min((unit / groups + 1) * block);
        let panels = (unit % groups * group)..columns.panels().min((unit % groups + 1) * group);
        scratch(chunk.min(block.len()) * pitch, own, |left, own| {
            let (left, own) = (pack::words(left), pack::words(own));
            for first in block.clone().step_by(chunk) {
                let height = chunk.min(block.end - first);
                let mut next = Next::new(&a[..rows * depth], (first + height) * depth, height * depth, pairs <= pass);
                for pair in (0..pairs).step_by(pass) {
                    let steps = 2 * pair..depth.min(2 * (pair + pass));
                    let src = &a[first * depth + steps.start..(first + height) * depth];
                    // SAFETY: only called on machines with the instructions.
                    unsafe { pack::rows(src, depth, steps.len(), left, pitch) };
                    for panel in panels.clone() {
                        let used = columns.used(panel);
                        let b = match &packed {
                            Some(packed) => {
                                packed[panel * PANEL * pairs + pair * columns.width(panel)..].as_ptr().cast()
                            }
                            None => {
                                pack(panel, steps.clone(), own);
                                own.as_ptr()
                            }
                        };
                        // SAFETY: the columns of this panel in the rows of this block belong to this unit; the last row
                        // ends with the panel.
                        let c = unsafe {
                            out.pointer(first * columns.0 + panel * PANEL, (height - 1) * columns.0 + used)
                        };
                        let (d, d_row) = match bias {
                            Some(bias) if pair == 0 => (bias[panel * PANEL..].as_ptr(), 0),
                            None if pair == 0 && !add => (std::ptr::null(), 0),
                            _ => (c.cast_const(), columns.0),
                        };
                        let pairs = steps.len().div_ceil(2);
                        let (next, next_step) = next.take(height.div_ceil(TILE_ROWS) * pairs);
                        let tile = Tile {
                            a: left.as_ptr(),
                            a_row: pitch,
                            a_step: 1,
                            b,
                            pairs,
                            c,
                            c_row: columns.0,
                            d,
                            d_row,
                            columns: used,
                            next,
                            next_step,
                        };
                        // SAFETY: only called on machines with the instructions; extents as asserted and packed above,
                        // and this unit alone touches these columns of these rows.
                        unsafe { tile.run(height) };
                    }
                }
            }
        });
    });
}

/// The rows of the left operand that come next, asked for line by line while the present ones are multiplied.
struct Next {
    start: *const f32,
    lines: usize,
}

impl Next {
    /// `count` elements from `start` on, as far as they exist; none if they are not `wanted`.
    fn new(a: &[f32], start: usize, count: usize, wanted: bool) -> Self {
        let count = if wanted { count.min(a.len() - start) } else { 0 };
        Self { start: a.as_ptr().wrapping_add(start), lines: count.div_ceil(LINE) }
    }

    /// Where to begin and how far to step for a product of that many steps.
    fn take(&mut self, steps: usize) -> (*const f32, usize) {
        if self.lines == 0 {
            return (self.start, 0);
        }
        let start = self.start;
        self.start = start.wrapping_add(steps.min(self.lines) * LINE);
        self.lines -= steps.min(self.lines);
        (start, LINE)
    }
}

/// All panels of a right operand: panel by panel, over the whole depth.
fn pack_all(
    depth: usize,
    columns: Columns,
    pack: &(impl Fn(usize, Range<usize>, &mut [u32]) + Sync),
) -> Buffer {
    let pairs = depth.div_ceil(2);
    let mut packed = Buffer::new(pairs * columns.padded());
    let out = Disjoint::new(&mut packed);
    parallel::for_each(columns.panels(), |panel| {
        // SAFETY: panels do not overlap.
        let to = unsafe { out.slice(panel * PANEL * pairs, pairs * columns.width(panel)) };
        pack(panel, 0..depth, pack::words(to));
    });
    packed
}
