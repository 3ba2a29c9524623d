//! Matrix products of linear layers and 1x1 convolutions: activations `[rows, c]`, weights `[o, c]` as they are saved.
//!
//! The right operand is packed into panels on every call, which costs little beside the product and leaves nothing to
//! keep in step with the weights. The left operand is read where it lies.

pub(crate) mod at;
pub(crate) mod bf16;
mod panels;
#[cfg(target_arch = "x86_64")]
mod squares;
#[cfg(test)]
pub(crate) mod tests;
mod weight;

pub(crate) use panels::{Columns, LINE, Strip, copy_columns, run, transpose, transpose_rows};

use super::memory::Buffer;
use super::parallel::{self, Disjoint, scratch};
use super::simd::{Level, PANEL, TILE_ROWS, Tile, level, vectorized};

/// Extents of a layer: rows of activations, inputs, outputs.
type Extents = (usize, usize, usize);

/// Units of work that keep 16 threads busy.
pub(crate) const UNITS: usize = 32;
/// Rows of one unit, and the fewest worth one: a whole number of tiles.
const BLOCK: (usize, usize) = (16 * TILE_ROWS, 4 * TILE_ROWS);
/// Depth of one pass: the panel stays in the first- or second-level cache while the rows go by.
const DEPTH: usize = 512;
/// Most rows for which a unit packs its own panels and takes all rows.
const FEW: usize = 512;
/// Largest memory of a weight gradient's partial sums, in elements.
pub(crate) const PARTIALS: usize = 4 << 20;

vectorized! {
    /// The sum of `count` rows, `pitch` apart: partial sums of a weight gradient.
    pub(crate) fn add_parts(parts: &[f32], pitch: usize, count: usize, out: &mut [f32]) {
        // Pieces that stay in the first-level cache.
        for (piece, out) in out.chunks_mut(1024).enumerate() {
            let row = |i: usize| &parts[i * pitch + piece * 1024..];
            out.copy_from_slice(&row(0)[..out.len()]);
            for i in 1..count {
                for (out, part) in out.iter_mut().zip(row(i)) {
                    *out += part;
                }
            }
        }
    }
}

/// `y = x w^T + bias`.
pub(crate) fn linear(
    rows: usize,
    c: usize,
    o: usize,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    linear_at(level(), (rows, c, o), x, w, bias, y);
}

/// `dx = dy w`, or added to `dx`.
pub(crate) fn linear_backward_data(
    rows: usize,
    c: usize,
    o: usize,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    backward_data_at(level(), (rows, c, o), dy, w, dx, add);
}

/// `dw = dy^T x`.
pub(crate) fn linear_backward_weight(rows: usize, c: usize, o: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    weight::backward_weight(level(), (rows, c, o), x, dy, dw);
}

fn linear_at(level: Level, (rows, c, o): Extents, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let columns = Columns(o);
    let pack = |panel: usize, dst: &mut [f32]| {
        let (used, width) = (columns.used(panel), columns.width(panel));
        transpose(&w[panel * PANEL * c..], c, used, width, None, dst);
    };
    product(level, (rows, c, columns), x, pack, (bias, false), y);
}

fn backward_data_at(level: Level, (rows, c, o): Extents, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
    let columns = Columns(c);
    let pack = |panel: usize, dst: &mut [f32]| {
        copy_columns(w, c, panel * PANEL, (columns.used(panel), columns.width(panel)), dst);
    };
    product(level, (rows, o, columns), dy, pack, (None, add), dx);
}

/// Rows and panels of the units of a product.
#[derive(Debug, Clone, Copy)]
struct Cut {
    block: usize,
    group: usize,
}

fn cut(rows: usize, columns: Columns) -> Cut {
    let panels = columns.panels();
    if rows <= FEW && panels >= 8 {
        return Cut { block: rows, group: panels.div_ceil(UNITS) };
    }
    let mut block = BLOCK.0;
    while block > BLOCK.1 && rows.div_ceil(block) * panels < UNITS {
        block /= 2;
    }
    let groups = UNITS.div_ceil(rows.div_ceil(block)).min(panels);
    let group = panels.div_ceil(groups);
    // Pairs of panels stay together.
    Cut { block, group: if group > 2 { group.next_multiple_of(2) } else { group } }
}

/// `y (+)= a b` with `a` `[rows, depth]` and the panels of `b` as `pack` fills them.
fn product(
    level: Level,
    (rows, depth, columns): (usize, usize, Columns),
    a: &[f32],
    pack: impl Fn(usize, &mut [f32]) + Sync,
    (bias, add): (Option<&[f32]>, bool),
    y: &mut [f32],
) {
    assert!(a.len() >= rows * depth && y.len() >= rows * columns.0, "matrix product: operands too short");
    let Cut { block, group } = cut(rows, columns);
    let (blocks, groups) = (rows.div_ceil(block), columns.panels().div_ceil(group));
    let packed = (blocks > 1).then(|| pack_all(depth, columns, &pack));
    let out = Disjoint::new(y);
    parallel::for_each(blocks * groups, |unit| {
        let first = unit / groups * block;
        let height = block.min(rows - first);
        let panels = (unit % groups * group)..columns.panels().min((unit % groups + 1) * group);
        let own = if packed.is_some() { 0 } else { depth * PANEL * 2 };
        scratch(own, columns.padded(), |own, start| {
            let bias = bias.map(|bias| {
                start[..columns.0].copy_from_slice(&bias[..columns.0]);
                start[columns.0..].fill(0.0);
                &*start
            });
            for strip in columns.strips(panels) {
                let b = match &packed {
                    Some(packed) => &packed[strip.panel * PANEL * depth..][..depth * strip.width],
                    None => {
                        for (i, own) in own[..depth * strip.width].chunks_mut(depth * PANEL).enumerate() {
                            pack(strip.panel + i, own);
                        }
                        &own[..depth * strip.width]
                    }
                };
                let start = first * columns.0 + strip.panel * PANEL;
                let kernels = strip.kernels(level, depth * PANEL);
                let kernels = match bias {
                    Some(bias) => kernels.with_bias(bias[strip.panel * PANEL..][..strip.width].as_ptr()),
                    None => kernels,
                };
                for k in (0..depth).step_by(DEPTH) {
                    let tile = Tile {
                        a: a[first * depth + k..].as_ptr(),
                        a_row: depth,
                        a_step: 1,
                        b: b[k * strip.step..].as_ptr(),
                        b_step: strip.step,
                        // SAFETY: these columns of these rows belong to this unit; the last row ends with the strip.
                        c: unsafe { out.pointer(start, (height - 1) * columns.0 + strip.used) },
                        c_row: columns.0,
                        depth: DEPTH.min(depth - k),
                        add: add || k > 0,
                    };
                    // SAFETY: extents as asserted above, and this unit alone writes these columns of these rows.
                    unsafe { run(kernels, (strip.used, strip.width), height, &tile) };
                }
            }
        });
    });
}

/// All panels of a right operand of `depth` rows.
pub(crate) fn pack_all(depth: usize, columns: Columns, pack: &(impl Fn(usize, &mut [f32]) + Sync)) -> Buffer {
    let mut packed = Buffer::new(depth * columns.padded());
    let out = Disjoint::new(&mut packed);
    parallel::for_each(columns.panels(), |panel| {
        // SAFETY: panels do not overlap.
        pack(panel, unsafe { out.slice(panel * PANEL * depth, depth * columns.width(panel)) });
    });
    packed
}

/// Rows of `dy` that one partial sum covers.
const SUMMED: usize = 256;

/// Sums of the columns of `dy`, the gradient of a bias.
pub(crate) fn column_sums(rows: usize, o: usize, dy: &[f32], out: &mut [f32]) {
    let parts = rows.div_ceil(SUMMED);
    let mut partial = Buffer::zeros(parts * o);
    let sums = Disjoint::new(&mut partial);
    parallel::for_each(parts, |part| {
        // SAFETY: every part has its own sums.
        let sums = unsafe { sums.slice(part * o, o) };
        add_rows(&dy[part * SUMMED * o..(rows * o).min((part + 1) * SUMMED * o)], sums);
    });
    out[..o].fill(0.0);
    add_rows(&partial, &mut out[..o]);
}

vectorized! {
    /// Adds every row of `rows` to `sums`.
    pub(crate) fn add_rows(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}
