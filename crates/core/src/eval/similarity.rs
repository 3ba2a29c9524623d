//! Dot products of one set of rows with another, a tile at a time: the tile never leaves the cache of its thread.

use crate::kernels::gemm::{Columns, LINE, pack_all, run, transpose};
use crate::kernels::memory::Buffer;
use crate::kernels::simd::{Level, PANEL, Tile, level};

/// Depth of one pass: a panel of it (64 KiB) and some rows stay in a core's L2.
const DEPTH: usize = 512;

/// Rows packed for products with many others.
pub(super) struct Packed {
    packed: Buffer,
    columns: Columns,
    dim: usize,
    level: Level,
}

impl Packed {
    /// Packs `rows` of width `dim`, in parallel.
    pub(super) fn new(rows: &[f32], dim: usize) -> Self {
        let columns = Columns(rows.len() / dim);
        let pack = |panel: usize, dst: &mut [f32]| {
            let (used, width) = (columns.used(panel), columns.width(panel));
            transpose(&rows[panel * PANEL * dim..], dim, used, width, None, dst);
        };
        Self { packed: pack_all(dim, columns, &pack), columns, dim, level: level() }
    }

    /// The number of packed rows.
    pub(super) fn len(&self) -> usize {
        self.columns.0
    }

    /// Dot products of `left` (rows of the same width) with the packed rows `first..first + count`, row by row in
    /// `out`, whose rows are `pitch(count)` apart. `first` is a multiple of [`PANEL`]; what lies between `count` and the
    /// pitch is unspecified.
    pub(super) fn product(&self, left: &[f32], first: usize, count: usize, out: &mut [f32]) {
        let (dim, pitch) = (self.dim, pitch(count));
        let rows = left.len() / dim;
        assert!(
            first.is_multiple_of(PANEL) && first + count <= self.len() && out.len() >= rows * pitch,
            "similarities: {rows} rows with {first} + {count} of {} in {}",
            self.len(),
            out.len()
        );
        if rows == 0 {
            return;
        }
        let panels = first / PANEL..(first + count).div_ceil(PANEL);
        for strip in self.columns.strips(panels) {
            let b = &self.packed[strip.panel * PANEL * dim..][..dim * strip.width];
            for k in (0..dim).step_by(DEPTH) {
                let tile = Tile {
                    a: left[k..].as_ptr(),
                    a_row: dim,
                    a_step: 1,
                    b: b[k * strip.step..].as_ptr(),
                    b_step: strip.step,
                    c: out[strip.panel * PANEL - first..].as_mut_ptr(),
                    c_row: pitch,
                    depth: DEPTH.min(dim - k),
                    add: k > 0,
                };
                // SAFETY: `left` holds `rows` rows of `dim`, each panel `dim` rows; the last row of C ends at most at
                // `rows * pitch` because the pitch holds whole lines, and no width is beyond the next one.
                unsafe {
                    run(strip.kernels(self.level, PANEL * dim), (strip.width, strip.width), rows, &tile)
                };
            }
        }
    }
}

/// The distance of rows in the result of a product with `count` rows.
pub(super) fn pitch(count: usize) -> usize {
    count.next_multiple_of(LINE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};

    #[test]
    fn products_equal_the_definition() {
        let mut stream = Key::new(1, Purpose::Data).stream();
        for (rows, dim, n) in [(1, 1, 1), (5, 7, 33), (13, 700, 70), (24, 32, 128)] {
            let left: Vec<f32> = (0..rows * dim).map(|_| stream.normal() as f32).collect();
            let right: Vec<f32> = (0..n * dim).map(|_| stream.normal() as f32).collect();
            let packed = Packed::new(&right, dim);
            for first in (0..n).step_by(PANEL) {
                let count = (n - first).min(2 * PANEL);
                let mut out = vec![f32::NAN; rows * pitch(count)];
                packed.product(&left, first, count, &mut out);
                for (r, row) in out.chunks(pitch(count)).enumerate() {
                    for (c, &got) in row.iter().take(count).enumerate() {
                        let pairs = (0..dim).map(|k| (left[r * dim + k], right[(first + c) * dim + k]));
                        let sum: f64 = pairs.map(|(a, b)| f64::from(a) * f64::from(b)).sum();
                        assert!((f64::from(got) - sum).abs() < 1e-4, "{rows} {dim} {n}: {got} {sum}");
                    }
                }
            }
        }
    }
}
