//! The weight gradient of a matrix product, `dw = dy^T x`: a short, wide result of a very deep product.

use super::{Columns, LINE, UNITS, copy_columns, run};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::{Level, PANEL, Panel, Tile, vectorized};

/// Rows of one pass: a panel of each operand stays in the first-level cache.
const DEPTH: usize = 256;
/// Largest extents of the part of `dw` that one unit makes (outputs, inputs), whole panels.
const PART: (usize, usize) = (256, 256);
/// Fewest rows worth a partial sum of their own.
const FEWEST: usize = 512;
/// Largest memory of the partial sums, in elements.
const PARTIALS: usize = 4 << 20;

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
        let (mut part, size) = (PART, o * c);
        let parts = |part: (usize, usize)| (o.div_ceil(part.0), c.div_ceil(part.1));
        let most = (PARTIALS / size).min(rows / FEWEST).max(1);
        // Smaller parts pack the operands more often, more groups have more to add up.
        while parts(part).0 * parts(part).1 * most < UNITS && part.0 * part.1 > 64 * 64 {
            part = if part.0 > part.1 { (part.0 / 2, part.1) } else { (part.0, part.1 / 2) };
        }
        let parts = parts(part);
        let groups = UNITS.div_ceil(parts.0 * parts.1).min(most);
        let rows = rows.div_ceil(groups);
        Self { part, parts, rows, groups }
    }
}

pub(super) fn backward_weight(
    level: Level,
    (rows, c, o): (usize, usize, usize),
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
) {
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
    let lines = outputs.1.div_ceil(LINE);
    if taken.is_empty() {
        for row in 0..outputs.1 {
            // SAFETY: this part of this group's sums belongs to the unit.
            unsafe { out.slice(start + (outputs.0 + row) * c + inputs.0, inputs.1) }.fill(0.0);
        }
    }
    let first = taken.start;
    scratch(DEPTH * lines * LINE, DEPTH * columns.padded(), |a, b| {
        for row in taken.clone().step_by(DEPTH) {
            let depth = DEPTH.min(taken.end - row);
            for line in 0..lines {
                let used = LINE.min(outputs.1 - line * LINE);
                let dst = &mut a[line * LINE * DEPTH..][..depth * LINE];
                copy_columns(&dy[row * o..], o, outputs.0 + line * LINE, (used, LINE), dst);
            }
            for panel in 0..columns.panels() {
                let (used, width) = (columns.used(panel), columns.width(panel));
                let b = &mut b[panel * PANEL * DEPTH..][..depth * width];
                copy_columns(&x[row * c..], c, inputs.0 + panel * PANEL, (used, width), b);
                for line in 0..lines {
                    let height = LINE.min(outputs.1 - line * LINE);
                    let place = start + (outputs.0 + line * LINE) * c + inputs.0 + panel * PANEL;
                    let tile = Tile {
                        a: a[line * LINE * DEPTH..].as_ptr(),
                        a_row: 1,
                        a_step: LINE,
                        b: b.as_ptr(),
                        b_step: width,
                        // SAFETY: as above.
                        c: unsafe { out.pointer(place, (height - 1) * c + used) },
                        c_row: c,
                        depth,
                        add: row > first,
                    };
                    // SAFETY: both operands were packed with `depth` rows.
                    unsafe { run(Panel::new(level, width), (used, width), height, &tile) };
                }
            }
        }
    });
}

vectorized! {
    /// The sum of `count` rows, `pitch` apart.
    fn add_parts(parts: &[f32], pitch: usize, count: usize, out: &mut [f32]) {
        out.copy_from_slice(&parts[..out.len()]);
        for i in 1..count {
            for (out, part) in out.iter_mut().zip(&parts[i * pitch..]) {
                *out += part;
            }
        }
    }
}
