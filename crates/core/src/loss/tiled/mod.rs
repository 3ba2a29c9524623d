//! The log-sum-exp of each row's negatives without the matrix of logits.
//!
//! `logits = scale * rows columnsᵀ` is `[M, N]`; both contrastive losses need, per row, the log-sum-exp over the
//! columns that are neither the row's own nor its positive, and the largest of them. On the CPU in f32 the logits exist
//! one tile at a time and the backward pass computes them again: memory is that of the embeddings, for any N. (Of up to
//! 1024 rows against themselves the whole matrix is kept: 4 MiB.)
//! Elsewhere plain Candle operations do the same with the whole matrix.

mod dense;
mod engine;
mod kernels;

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Shape, Tensor};

use crate::kernels::is_native;
use crate::kernels::memory::Buffer;
use crate::tensor::storage::{slice, with};
use crate::{Error, Result};
use engine::Problem;

/// What the log-sum-exp of a row without any negatives is: finite, so that no `0 * inf` arises, and so small that the
/// row's loss and gradients are exactly 0.
pub(super) const NO_NEGATIVES: f32 = -1e30;

/// Columns that are not a row's negatives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Excluded {
    /// All columns are negatives.
    None,
    /// Row `i` excludes column `offset + i`.
    Diagonal { offset: usize },
    /// The rows are two views of `batch` samples: row `i` excludes itself at `offset + i` and the other view of its
    /// sample at `offset + (i + batch) % (2 * batch)`.
    Views { offset: usize, batch: usize },
}

impl Excluded {
    fn columns(self, row: usize) -> [Option<usize>; 2] {
        match self {
            Excluded::None => [None, None],
            Excluded::Diagonal { offset } => [Some(offset + row), None],
            Excluded::Views { offset, batch } => {
                [Some(offset + row), Some(offset + (row + batch) % (2 * batch))]
            }
        }
    }
}

/// Of each row's negatives.
pub(super) struct Negatives {
    /// The log-sum-exp `[M]`.
    pub lse: Tensor,
    /// The largest logit `[M]`, without a gradient.
    pub max: Tensor,
}

impl Negatives {
    fn from_rows(stacked: &Tensor) -> Result<Self> {
        Ok(Self { lse: stacked.get(0)?, max: stacked.get(1)?.detach() })
    }
}

/// The negatives of `rows` `[M, D]` among other `columns` `[N, D]`.
pub(super) fn negatives(
    rows: &Tensor,
    columns: &Tensor,
    scale: f64,
    excluded: Excluded,
) -> Result<Negatives> {
    if !is_native(rows) || !is_native(columns) {
        return plain(rows, columns, scale, excluded);
    }
    let op = Tiled::new(scale, excluded);
    Negatives::from_rows(&rows.contiguous()?.apply_op2(&columns.contiguous()?, op)?)
}

/// The negatives of `rows` `[M, D]` among themselves; exclusion must be symmetric. Half the work of [`negatives`].
pub(super) fn symmetric_negatives(rows: &Tensor, scale: f64, excluded: Excluded) -> Result<Negatives> {
    if !is_native(rows) {
        return plain(rows, rows, scale, excluded);
    }
    let op = Tiled::new(scale, excluded);
    Negatives::from_rows(&rows.contiguous()?.apply_op1(op)?)
}

/// The same from plain operations, with the whole matrix of logits, on any device and in f64 too.
pub(super) fn plain(rows: &Tensor, columns: &Tensor, scale: f64, excluded: Excluded) -> Result<Negatives> {
    let (m, n) = (rows.dim(0)?, columns.dim(0)?);
    let mut logits = (rows.matmul(&columns.t()?)? * scale)?;
    if !matches!(excluded, Excluded::None) {
        let mut mask = vec![0f32; m * n];
        for (row, mask) in mask.chunks_exact_mut(n).enumerate() {
            for column in excluded.columns(row).into_iter().flatten() {
                mask[column] = NO_NEGATIVES;
            }
        }
        logits = (logits + Tensor::from_vec(mask, (m, n), rows.device())?.to_dtype(rows.dtype())?)?;
    }
    let max = logits.detach().max_keepdim(D::Minus1)?;
    let sum = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    let lse = (sum.log()? + &max)?.squeeze(D::Minus1)?;
    Ok(Negatives { lse, max: max.squeeze(D::Minus1)? })
}

struct Tiled {
    scale: f32,
    excluded: Excluded,
    /// The logits of a small symmetric problem, from the forward to the backward pass.
    kept: Mutex<Option<Buffer>>,
}

impl Tiled {
    fn new(scale: f64, excluded: Excluded) -> Self {
        Self { scale: scale as f32, excluded, kept: Mutex::new(None) }
    }

    fn problem<'a>(&self, rows: &'a [f32], columns: &'a [f32], d: usize) -> Problem<'a> {
        Problem { rows, columns, d, scale: self.scale, excluded: self.excluded }
    }
}

/// `[lse; max]` as one tensor `[2, M]`.
fn stacked((mut lse, max): (Vec<f32>, Vec<f32>)) -> (CpuStorage, Shape) {
    let shape = Shape::from((2, lse.len()));
    lse.extend(max);
    (CpuStorage::F32(lse), shape)
}

/// The log-sum-exps and their gradient out of a `[2, M]` result and its gradient.
fn saved(result: &Tensor, gradient: &Tensor) -> candle_core::Result<(Vec<f32>, Vec<f32>)> {
    Ok((result.get(0)?.to_vec1()?, gradient.get(0)?.contiguous()?.to_vec1()?))
}

impl CustomOp1 for Tiled {
    fn name(&self) -> &'static str {
        "tiled-log-sum-exp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, d) = layout.shape().dims2()?;
        let x = slice(storage, layout)?;
        let problem = self.problem(x, x, d);
        if !problem.is_small() {
            return Ok(stacked(problem.symmetric_forward()));
        }
        let (stats, logits) = problem.dense_forward();
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(logits);
        Ok(stacked(stats))
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (lse, gradient) = saved(result, gradient)?;
        let d = x.dim(1)?;
        // A second backward pass through the same graph finds nothing kept.
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dx = with(x, |s| {
            let problem = self.problem(s, s, d);
            Ok(match kept {
                Some(logits) => problem.dense_backward(logits, &lse, &gradient),
                None => problem.symmetric_backward(&lse, &gradient),
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

impl CustomOp2 for Tiled {
    fn name(&self) -> &'static str {
        "tiled-log-sum-exp"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        columns: &CpuStorage,
        columns_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, d) = rows_layout.shape().dims2()?;
        let (rows, columns) = (slice(rows, rows_layout)?, slice(columns, columns_layout)?);
        Ok(stacked(self.problem(rows, columns, d).forward()))
    }

    fn bwd(
        &self,
        rows: &Tensor,
        columns: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (lse, gradient) = saved(result, gradient)?;
        let d = rows.dim(1)?;
        // A queue of constants leads to no parameter: its gradient would cost a third of the work.
        let wanted = columns.track_op();
        let (row_gradient, column_gradient) =
            with(rows, |r| with(columns, |c| Ok(self.problem(r, c, d).backward(&lse, &gradient, wanted))))?;
        let row_gradient = Tensor::from_vec(row_gradient, rows.shape(), rows.device())?;
        let column_gradient = match column_gradient {
            Some(g) => Some(Tensor::from_vec(g, columns.shape(), columns.device())?),
            None => None,
        };
        Ok((Some(row_gradient), column_gradient))
    }
}

/// Checks `[rows, D]` with both at least 1.
pub(super) fn check_matrix(op: &'static str, x: &Tensor) -> Result<(usize, usize)> {
    match x.dims() {
        &[n, d] if n > 0 && d > 0 => Ok((n, d)),
        dims => Err(Error::shape(op, "[N, D] with N, D >= 1", dims)),
    }
}

#[cfg(test)]
mod tests;
