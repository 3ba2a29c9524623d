//! Small symmetric problems with the whole matrix of logits at once: below some thousand rows it stays in the caches,
//! and one product by the layers' kernels is several times as fast as many small tiles.

use rayon::prelude::*;

use super::engine::Problem;
use super::{NO_NEGATIVES, kernels};
use crate::kernels::gemm;
use crate::kernels::memory::Buffer;

/// Rows at most: a matrix of 4 MiB.
const MOST: usize = 1024;
/// Rows of a unit of work.
const BLOCK: usize = 32;

impl Problem<'_> {
    /// Whether the functions of this file are the way to go, for rows against themselves.
    pub(super) fn is_small(&self) -> bool {
        self.n() <= MOST && self.bounded()
    }

    /// `rows rowsᵀ`, neither scaled nor with anything excluded.
    fn products(&self) -> Buffer {
        let n = self.n();
        let mut out = Buffer::new(n * n);
        gemm::linear(n, self.d, n, self.rows, self.rows, None, &mut out);
        out
    }

    /// Products of the rows from `first` on, `[.., N]`, to logits: excluded ones at -inf.
    fn finish(&self, first: usize, logits: &mut [f32]) {
        for (row, logits) in logits.chunks_exact_mut(self.n()).enumerate() {
            logits.iter_mut().for_each(|s| *s *= self.scale);
            for column in self.excluded.columns(first + row).into_iter().flatten() {
                logits[column] = f32::NEG_INFINITY;
            }
        }
    }

    /// As [`Problem::symmetric_forward`], and the logits for [`Problem::dense_backward`].
    pub(super) fn dense_forward(&self) -> ((Vec<f32>, Vec<f32>), Buffer) {
        let n = self.n();
        let mut logits = self.products();
        let (mut max, mut sum) = (vec![0f32; n], vec![0f32; n]);
        let stats = max.par_chunks_mut(BLOCK).zip(sum.par_chunks_mut(BLOCK));
        logits.par_chunks_mut(BLOCK * n).zip(stats).enumerate().for_each(|(block, (logits, (max, sum)))| {
            self.finish(block * BLOCK, logits);
            kernels::row_stats(logits, n, max, sum);
        });
        let log = |(&max, &sum): (&f32, &f32)| if sum == 0.0 { NO_NEGATIVES } else { max + sum.ln() };
        ((max.iter().zip(&sum).map(log).collect(), max), logits)
    }

    /// As [`Problem::symmetric_backward`].
    pub(super) fn dense_backward(&self, mut logits: Buffer, lse: &[f32], gradient: &[f32]) -> Vec<f32> {
        let n = self.n();
        let factor = self.factors(lse, gradient);
        logits.par_chunks_mut(BLOCK * n).enumerate().for_each(|(block, logits)| {
            kernels::symmetric_weights(logits, n, &factor[block * BLOCK..], &factor);
        });
        let weights = logits;
        let mut gradient = vec![0f32; n * self.d];
        gemm::linear_backward_data(n, self.d, n, &weights, self.rows, &mut gradient, false);
        gradient
    }
}
