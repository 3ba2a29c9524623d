//! The weight gradient of a matrix product, `dw = dy^T x`: a short, wide result of a very deep product.

use super::{Columns, Extents, LINE, PARTIALS, UNITS, add_parts, run};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::{Level, PANEL, TILE_ROWS, Tile, vectorized};

/// Rows of one pass: a panel of each operand stays in the first-level cache.
const DEPTH: usize = 128;
/// Outputs that are packed side by side: two tiles.
const GROUP: usize = 2 * TILE_ROWS;
/// From one group of packed columns to the next: a little more than they take, because powers of two collide in the
/// cache.
const GROUP_STRIDE: usize = DEPTH * GROUP + LINE;
const PANEL_STRIDE: usize = DEPTH * PANEL + LINE;
/// Largest extents of the part of `dw` that one unit makes (outputs, inputs), whole panels.
const PART: (usize, usize) = (768, 512);
/// Units of work at least, if that leaves parts large enough: they keep 12 or 24 threads busy, and 16 well enough.
const FEWEST_UNITS: usize = 24;
/// Fewest rows worth a partial sum of their own.
const FEWEST: usize = 384;

/// Parts along the outputs and inputs, and their extents; groups of rows, and their extent.
#[derive(Debug, Clone, Copy)]
struct Cut {
    part: (usize, usize),
    parts: (usize, usize),
    rows: usize,
    groups: usize,
}

impl Cut {
    fn new(rows: usize, c: usize, o: usize) -> Self {
        let most = (PARTIALS / (o * c)).min(rows / FEWEST).max(1);
        let mut parts = (o.div_ceil(PART.0), c.div_ceil(PART.1));
        // Even parts of whole groups and panels.
        let part = |parts: (usize, usize)| {
            (o.div_ceil(parts.0).next_multiple_of(GROUP), c.div_ceil(parts.1).next_multiple_of(PANEL))
        };
        // Smaller parts pack the operands more often, more groups have more to add up.
        while parts.0 * parts.1 * most < FEWEST_UNITS && part(parts).0 * part(parts).1 > 64 * 64 {
            let (outputs, inputs) = part(parts);
            parts = if outputs > inputs { (parts.0 + 1, parts.1) } else { (parts.0, parts.1 + 1) };
        }
        let part = part(parts);
        let parts = (o.div_ceil(part.0), c.div_ceil(part.1));
        let groups = FEWEST_UNITS.div_ceil(parts.0 * parts.1).min(most);
        let rows = rows.div_ceil(groups);
        Self { part, parts, rows, groups }
    }
}

pub(super) fn backward_weight(level: Level, (rows, c, o): Extents, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    assert!(
        x.len() >= rows * c && dy.len() >= rows * o && dw.len() >= o * c,
        "matrix product: operands too short"
    );
    let cut = Cut::new(rows, c, o);
    let mut partial = Buffer::new(if cut.groups > 1 { cut.groups * o * c } else { 0 });
    let out = Disjoint::new(if cut.groups > 1 { &mut partial } else { &mut *dw });
    parallel::for_each(cut.parts.0 * cut.parts.1 * cut.groups, |unit| {
        let (group, part) = (unit / (cut.parts.0 * cut.parts.1), unit % (cut.parts.0 * cut.parts.1));
        let outputs = (part / cut.parts.1 * cut.part.0, cut.part.0.min(o - part / cut.parts.1 * cut.part.0));
        let inputs = (part % cut.parts.1 * cut.part.1, cut.part.1.min(c - part % cut.parts.1 * cut.part.1));
        let taken = (group * cut.rows).min(rows)..((group + 1) * cut.rows).min(rows);
        let start = group * o * c;
        sum_rows(level, (c, o), (x, dy), (outputs, inputs), taken, (&out, start));
    });
    if cut.groups > 1 {
        let size = dw.len().min(o * c);
        let chunk = size.div_ceil(UNITS).next_multiple_of(LINE);
        let out = Disjoint::new(dw);
        parallel::for_each(size.div_ceil(chunk), |i| {
            let first = i * chunk;
            // SAFETY: chunks do not overlap.
            let out = unsafe { out.slice(first, chunk.min(size - first)) };
            add_parts(&partial[first..], size, cut.groups, out);
        });
    }
}

/// The part of `dw` for some outputs and inputs (first, count), over the rows `taken`.
fn sum_rows(
    level: Level,
    (c, o): (usize, usize),
    (x, dy): (&[f32], &[f32]),
    (outputs, inputs): ((usize, usize), (usize, usize)),
    taken: std::ops::Range<usize>,
    (out, start): (&Disjoint, usize),
) {
    let columns = Columns(inputs.1);
    let groups = outputs.1.div_ceil(GROUP);
    if taken.is_empty() {
        for row in 0..outputs.1 {
            // SAFETY: this part of this group's sums belongs to the unit.
            unsafe { out.slice(start + (outputs.0 + row) * c + inputs.0, inputs.1) }.fill(0.0);
        }
    }
    let first = taken.start;
    scratch(groups * GROUP_STRIDE, columns.panels() * PANEL_STRIDE, |a, b| {
        for row in taken.clone().step_by(DEPTH) {
            let depth = DEPTH.min(taken.end - row);
            pack_groups(&dy[row * o + outputs.0..], o, outputs.1, depth, a);
            pack_panels(&x[row * c + inputs.0..], c, inputs.1, depth, b);
            for strip in columns.strips(0..columns.panels()) {
                let kernels = strip.kernels(level, PANEL_STRIDE);
                for group in 0..groups {
                    let height = GROUP.min(outputs.1 - group * GROUP);
                    let place = start + (outputs.0 + group * GROUP) * c + inputs.0 + strip.panel * PANEL;
                    let tile = Tile {
                        a: a[group * GROUP_STRIDE..].as_ptr(),
                        a_row: 1,
                        a_step: GROUP,
                        b: b[strip.panel * PANEL_STRIDE..].as_ptr(),
                        b_step: strip.step,
                        // SAFETY: as above.
                        c: unsafe { out.pointer(place, (height - 1) * c + strip.used) },
                        c_row: c,
                        depth,
                        add: row > first,
                    };
                    // SAFETY: both operands were packed with `depth` rows.
                    unsafe { run(kernels, (strip.used, strip.width), height, &tile) };
                }
            }
        }
    });
}

vectorized! {
    /// `count` columns in groups of [`GROUP`], `depth` rows each.
    fn pack_groups(src: &[f32], pitch: usize, count: usize, depth: usize, dst: &mut [f32]) {
        pack::<GROUP, GROUP_STRIDE>(src, pitch, count, depth, dst);
    }

    /// `count` columns as [`Columns`] lays them out, `depth` rows each.
    fn pack_panels(src: &[f32], pitch: usize, count: usize, depth: usize, dst: &mut [f32]) {
        let whole = count / PANEL;
        pack::<PANEL, PANEL_STRIDE>(src, pitch, whole * PANEL, depth, dst);
        let rest = count - whole * PANEL;
        let (src, dst) = (&src[whole * PANEL..], &mut dst[whole * PANEL_STRIDE..]);
        if rest > LINE {
            pack::<PANEL, PANEL_STRIDE>(src, pitch, rest, depth, dst);
        } else if rest > 0 {
            pack::<LINE, PANEL_STRIDE>(src, pitch, rest, depth, dst);
        }
    }
}

/// Columns in groups of `WIDTH`, `STRIDE` apart, zeros in what the last group has too much. Row by row: columns by
/// columns would ask for another page of memory with every row.
#[inline(always)]
fn pack<const WIDTH: usize, const STRIDE: usize>(
    src: &[f32],
    pitch: usize,
    count: usize,
    depth: usize,
    dst: &mut [f32],
) {
    if count == 0 {
        return;
    }
    for (i, row) in src.chunks(pitch).take(depth).enumerate() {
        let (groups, rest) = row[..count].as_chunks::<WIDTH>();
        for (j, group) in groups.iter().enumerate() {
            dst[j * STRIDE + i * WIDTH..][..WIDTH].copy_from_slice(group);
        }
        if !rest.is_empty() {
            let dst = &mut dst[groups.len() * STRIDE + i * WIDTH..][..WIDTH];
            dst[..rest.len()].copy_from_slice(rest);
            dst[rest.len()..].fill(0.0);
        }
    }
}
