//! Forward and backward of the tiled log-sum-exp on plain slices.
//!
//! Work is cut into square tiles whose side depends on the number of columns alone, and partial results are added in
//! tile order, so that the bytes of the result do not depend on the number of threads. Rows are taken in groups;
//! within a group the column blocks run in parallel, each with its own partial results for the group's rows: about two
//! extra copies of the columns, whatever their number.

use rayon::prelude::*;

use super::kernels;
use super::{Excluded, NO_NEGATIVES};
use crate::kernels::gemm;
use crate::kernels::map::add_chunk;

/// Logits up to this size can be exponentiated without a shift: `e^±40` times any number of terms stays in f32's range.
const BOUND: f32 = 40.0;

/// Rows against columns: `logits[i][j] = scale * rows[i] . columns[j]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Problem<'a> {
    /// `[M, D]`
    pub rows: &'a [f32],
    /// `[N, D]`
    pub columns: &'a [f32],
    pub d: usize,
    pub scale: f32,
    pub excluded: Excluded,
}

/// Rows per group: at least 512, so that small problems are one group and threads seldom wait for each other.
fn group(side: usize) -> usize {
    512.max(2 * side)
}

/// The side of the tiles: small problems are cut finer, to feed all cores; large ones by what a core's cache holds.
fn side(columns: usize) -> usize {
    (columns / 16).next_power_of_two().clamp(64, 256)
}

impl Problem<'_> {
    fn m(&self) -> usize {
        self.rows.len() / self.d
    }

    pub(super) fn n(&self) -> usize {
        self.columns.len() / self.d
    }

    /// The logits of rows `i..i + height` and columns `j..j + width`, excluded ones at -inf.
    fn tile(&self, i: usize, height: usize, j: usize, width: usize, tile: &mut [f32]) {
        let d = self.d;
        let (rows, columns) = (&self.rows[i * d..][..height * d], &self.columns[j * d..][..width * d]);
        gemm::linear(height, d, width, rows, columns, None, tile);
        // Not in the rows beforehand: where all rows are the same, rounding then makes a negative another number than the
        // positive.
        kernels::scale(tile, self.scale);
        for (row, logits) in tile.chunks_exact_mut(width).enumerate() {
            for column in self.excluded.columns(i + row).into_iter().flatten() {
                if (j..j + width).contains(&column) {
                    logits[column - j] = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Whether no logit can exceed [`BOUND`]. (A NaN may pass; it shows in every sum it enters.)
    pub(super) fn bounded(&self) -> bool {
        let largest = |x: &[f32]| {
            let square = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>();
            x.chunks_exact(self.d).map(square).fold(0f32, f32::max)
        };
        let (rows, columns) = (largest(self.rows), largest(self.columns));
        (rows * columns).sqrt() * self.scale.abs() <= BOUND
    }

    /// For each row the log-sum-exp and the largest of the logits that are not excluded.
    pub(super) fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        let (m, n, b) = (self.m(), self.n(), side(self.n()));
        let mut max = vec![f32::NEG_INFINITY; m];
        let mut sum = vec![0f64; m];
        for first in (0..m).step_by(group(b)) {
            let height = (m - first).min(group(b));
            let partial: Vec<(Vec<f32>, Vec<f32>)> = (0..n)
                .into_par_iter()
                .step_by(b)
                .map(|j| {
                    let width = (n - j).min(b);
                    let mut tile = vec![0f32; b * width];
                    let (mut max, mut sum) = (vec![0f32; height], vec![0f32; height]);
                    for i in (0..height).step_by(b) {
                        let rows = (height - i).min(b);
                        let tile = &mut tile[..rows * width];
                        self.tile(first + i, rows, j, width, tile);
                        kernels::row_stats(tile, width, &mut max[i..i + rows], &mut sum[i..i + rows]);
                    }
                    (max, sum)
                })
                .collect();
            let rows = max[first..][..height].par_iter_mut().zip(&mut sum[first..][..height]).enumerate();
            rows.for_each(|(i, (max, sum))| {
                for (part_max, part_sum) in &partial {
                    merge(max, sum, part_max[i], part_sum[i]);
                }
            });
        }
        let lse = sum.iter().zip(&max).map(|(&sum, &max)| log_sum(max, sum)).collect();
        (lse, max)
    }

    /// [`Problem::forward`] where rows and columns are the same and exclusion is symmetric: half the tiles.
    pub(super) fn symmetric_forward(&self) -> (Vec<f32>, Vec<f32>) {
        if !self.bounded() {
            return self.forward();
        }
        let (n, b) = (self.n(), side(self.n()));
        let mut max = vec![f32::NEG_INFINITY; n];
        let mut sum = vec![0f64; n];
        for first in (0..n).step_by(group(b)) {
            let height = (n - first).min(group(b));
            // The column blocks from `first` on; those to the left were done with earlier rows.
            let (max, sum) = (&mut max[first..], &mut sum[first..]);
            let partial: Vec<(Vec<f32>, Vec<f32>)> = max
                .par_chunks_mut(b)
                .zip(sum.par_chunks_mut(b))
                .enumerate()
                .map(|(block, (column_max, column_sum))| {
                    let (j, width) = (block * b, column_max.len());
                    let mut tile = vec![0f32; b * width];
                    let (mut max, mut sum) = (vec![f32::NEG_INFINITY; height], vec![0f32; height]);
                    for i in (0..height.min(j + 1)).step_by(b) {
                        let rows = (height - i).min(b);
                        let tile = &mut tile[..rows * width];
                        self.tile(first + i, rows, first + j, width, tile);
                        let (max, sum) = (&mut max[i..i + rows], &mut sum[i..i + rows]);
                        if i == j {
                            // On the diagonal the tile holds each pair twice.
                            let (mut unused_max, mut unused_sum) = (vec![0f32; width], vec![0f32; width]);
                            kernels::symmetric_stats(tile, width, max, sum, &mut unused_max, &mut unused_sum);
                        } else {
                            let mut block_sum = vec![0f32; width];
                            kernels::symmetric_stats(tile, width, max, sum, column_max, &mut block_sum);
                            for (total, part) in column_sum.iter_mut().zip(block_sum) {
                                *total += f64::from(part);
                            }
                        }
                    }
                    (max, sum)
                })
                .collect();
            for (part_max, part_sum) in partial {
                for i in 0..height {
                    max[i] = max[i].max(part_max[i]);
                    sum[i] += f64::from(part_sum[i]);
                }
            }
        }
        let lse = sum.iter().map(|&sum| log_sum(0.0, sum)).collect();
        (lse, max)
    }

    /// The gradients of rows and columns from the gradient of the log-sum-exp. `columns` says whether the columns'
    /// gradient is wanted.
    pub(super) fn backward(
        &self,
        lse: &[f32],
        gradient: &[f32],
        columns: bool,
    ) -> (Vec<f32>, Option<Vec<f32>>) {
        let (m, n, d, b) = (self.m(), self.n(), self.d, side(self.n()));
        // The scale of the chain rule, here rather than in a pass over the results.
        let gradient: Vec<f32> = gradient.iter().map(|g| g * self.scale).collect();
        let mut row_gradient = vec![0f32; m * d];
        let mut column_gradient = vec![0f32; if columns { n * d } else { 0 }];
        let mut partial = vec![0f32; n.div_ceil(b) * group(b).min(m) * d];
        for first in (0..m).step_by(group(b)) {
            let height = (m - first).min(group(b));
            let task = |(block, (own, partial)): (usize, (&mut [f32], &mut [f32]))| {
                let j = block * b;
                let width = (n - j).min(b);
                let mut tile = vec![0f32; b * width];
                let mut part = vec![0f32; own.len()];
                let columns_here = &self.columns[j * d..][..width * d];
                for i in (0..height).step_by(b) {
                    let rows = (height - i).min(b);
                    let at = first + i;
                    let tile = &mut tile[..rows * width];
                    self.tile(at, rows, j, width, tile);
                    kernels::weights(tile, width, &lse[at..at + rows], &gradient[at..at + rows]);
                    let out = &mut partial[i * d..][..rows * d];
                    gemm::linear_backward_data(rows, d, width, tile, columns_here, out, false);
                    if columns {
                        let rows_here = &self.rows[at * d..][..rows * d];
                        gemm::linear_backward_weight(rows, d, width, rows_here, tile, &mut part);
                        add_chunk(&part, own);
                    }
                }
            };
            let partials = partial.par_chunks_mut(height * d).take(n.div_ceil(b));
            if columns {
                column_gradient.par_chunks_mut(b * d).zip(partials).enumerate().for_each(task);
            } else {
                partials.enumerate().for_each(|(block, partial)| task((block, (&mut [], partial))));
            }
            let rows = &mut row_gradient[first * d..][..height * d];
            add_partials(rows, &partial[..n.div_ceil(b) * height * d], 0, b * d);
        }
        (row_gradient, columns.then_some(column_gradient))
    }

    /// What `e^logit` has to be multiplied by for the gradient of each row's log-sum-exp, times the scale of the chain
    /// rule: here rather than in a pass over the result.
    pub(super) fn factors(&self, lse: &[f32], gradient: &[f32]) -> Vec<f32> {
        let of =
            |(&g, &lse): (&f32, &f32)| if lse == NO_NEGATIVES { 0.0 } else { g * (-lse).exp() * self.scale };
        gradient.iter().zip(lse).map(of).collect()
    }

    /// The gradient where rows and columns are the same tensor and exclusion is symmetric: each pair's two
    /// contributions share one exponential and one tile.
    pub(super) fn symmetric_backward(&self, lse: &[f32], gradient: &[f32]) -> Vec<f32> {
        if !self.bounded() {
            let (mut rows, columns) = self.backward(lse, gradient, true);
            for (row, column) in rows.iter_mut().zip(columns.unwrap_or_default()) {
                *row += column;
            }
            return rows;
        }
        let (n, d, b) = (self.n(), self.d, side(self.n()));
        let factor = self.factors(lse, gradient);
        let mut total = vec![0f32; n * d];
        let mut partial = vec![0f32; n.div_ceil(b) * group(b).min(n) * d];
        for first in (0..n).step_by(group(b)) {
            let height = (n - first).min(group(b));
            let blocks = (n - first).div_ceil(b);
            let partial = &mut partial[..blocks * height * d];
            let owned = total[first * d..].par_chunks_mut(b * d);
            owned.zip(partial.par_chunks_mut(height * d)).enumerate().for_each(|(block, (own, partial))| {
                let j = block * b;
                let width = own.len() / d;
                let mut tile = vec![0f32; b * width];
                let mut part = vec![0f32; own.len()];
                let columns = &self.columns[(first + j) * d..][..width * d];
                for i in (0..height.min(j + 1)).step_by(b) {
                    let rows = (height - i).min(b);
                    let (row, column) = (first + i, first + j);
                    let tile = &mut tile[..rows * width];
                    self.tile(row, rows, column, width, tile);
                    let (rows_factor, columns_factor) = (&factor[row..][..rows], &factor[column..][..width]);
                    kernels::symmetric_weights(tile, width, rows_factor, columns_factor);
                    let out = &mut partial[i * d..][..rows * d];
                    gemm::linear_backward_data(rows, d, width, tile, columns, out, false);
                    if i != j {
                        let rows_here = &self.rows[row * d..][..rows * d];
                        gemm::linear_backward_weight(rows, d, width, rows_here, tile, &mut part);
                        add_chunk(&part, own);
                    }
                }
            });
            add_partials(&mut total[first * d..][..height * d], partial, 1, b * d);
        }
        total
    }
}

/// Adds each part of `partial` to `rows`, in order, in parallel over chunks of rows. With `triangle` = 1, part `p`
/// holds only the row blocks up to the `p`-th.
fn add_partials(rows: &mut [f32], partial: &[f32], triangle: usize, block: usize) {
    let length = rows.len();
    rows.par_chunks_mut(block).enumerate().for_each(|(index, chunk)| {
        for part in partial.chunks_exact(length).skip(triangle * index) {
            add_chunk(&part[index * block..], chunk);
        }
    });
}

/// Adds a part with its own largest logit to a running (largest, sum relative to it).
fn merge(max: &mut f32, sum: &mut f64, part_max: f32, part_sum: f32) {
    let new = if part_max > *max { part_max } else { *max };
    if new == f32::NEG_INFINITY {
        // Nothing yet: 0, or the NaN of a poisoned part.
        *sum += f64::from(part_sum);
        return;
    }
    let new_f64 = f64::from(new);
    *sum = *sum * (f64::from(*max) - new_f64).exp()
        + f64::from(part_sum) * (f64::from(part_max) - new_f64).exp();
    *max = new;
}

fn log_sum(max: f32, sum: f64) -> f32 {
    if sum == 0.0 { NO_NEGATIVES } else { (f64::from(max) + sum.ln()) as f32 }
}
