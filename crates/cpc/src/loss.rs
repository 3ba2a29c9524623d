//! InfoNCE over candidate targets (eq. 4): pure functions.
//!
//! For a prediction `p = W_k c_t` and candidate targets `z_j`, one of which is the true `z_{t+k}`,
//!
//! ```text
//! L = − log( exp(z_{t+k}ᵀ p) / Σ_j exp(z_jᵀ p) )
//! ```
//!
//! The softmax runs over targets for a fixed context, never over contexts for a fixed target. Inner products are sums;
//! there is no temperature, no normalisation, and nothing is cut from the graph.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, D, DType, Device, Layout, Shape, Storage, Tensor};
use contrastive_core::kernels::{FeatureMap, exponentials, linear};
use contrastive_core::{Error, Result};
use rayon::prelude::*;

mod gathered;

pub use gathered::gathered;

/// A loss and how well it is solved.
#[derive(Debug, Clone)]
pub struct Scores {
    /// The mean over predictions, in nats: a scalar in the graph of the logits.
    pub loss: Tensor,
    /// The share of predictions whose true target has a larger logit than every negative.
    pub accuracy: f64,
    /// The share of negatives whose logit is below the true target's, averaged over predictions.
    pub above: f64,
}

/// All inner products `[M, C]` of predictions `[M, D]` and targets `[C, D]`.
///
/// # Errors
/// Widths that differ.
pub fn logits(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (&[_, d], &[_, width]) = (predictions.dims(), targets.dims()) else {
        return Err(Error::shape("CPC logits", "[M, D] and [C, D]", predictions.dims()));
    };
    if d != width {
        return Err(Error::shape("CPC logits", format!("[C, {d}] for the targets"), targets.dims()));
    }
    // The product of a linear layer whose weight is the targets.
    linear(&FeatureMap::from_rows(predictions)?, targets, None)?.rows()
}

/// InfoNCE of `logits` `[M, C]`, where the true target of prediction `m` is column `positive[m]`. The other columns are
/// its negatives but for those that `excluded` `[M, C]` names (its word on the true target is not heard).
///
/// # Errors
/// Sizes that do not fit, a column out of range, a prediction without a negative.
pub fn info_nce(logits: &Tensor, positive: &[u32], excluded: Option<&[bool]>) -> Result<Scores> {
    let &[m, c] = logits.dims() else {
        return Err(Error::shape("info_nce", "[M, C]", logits.dims()));
    };
    if m == 0 || positive.len() != m {
        return Err(Error::shape(
            "info_nce",
            format!("[{}, C] for as many true targets", positive.len()),
            logits.dims(),
        ));
    }
    if let Some(column) = positive.iter().find(|&&column| column as usize >= c) {
        return Err(Error::data(
            "info_nce",
            format!("true target {column} is out of range for {c} candidates"),
        ));
    }
    if let Some(excluded) = excluded
        && excluded.len() != m * c
    {
        return Err(Error::shape("info_nce", format!("{m} x {c} exclusions"), &[excluded.len()]));
    }
    let rows = |m: usize| (positive[m] as usize, excluded.map(|excluded| &excluded[m * c..(m + 1) * c]));
    let native = logits.device().is_cpu() && logits.dtype() == DType::F32;
    let mut values = host(logits)?;
    let outcomes: Vec<Outcome> = values
        .par_chunks_mut(c)
        .enumerate()
        .map(|(row, values)| {
            let (positive, excluded) = rows(row);
            evaluate(values, positive, excluded, 1.0 / m as f32)
        })
        .collect();
    if let Some(row) = outcomes.iter().position(|outcome| outcome.negatives == 0) {
        return Err(Error::data("info_nce", format!("prediction {row} has no negative")));
    }
    let mean = |f: &dyn Fn(&Outcome) -> f64| outcomes.iter().map(f).sum::<f64>() / m as f64;
    let accuracy = mean(&|o| f64::from(u8::from(o.below == o.negatives)));
    let above = mean(&|o| o.below as f64 / o.negatives as f64);
    let loss = if native {
        let value = mean(&|o| o.loss) as f32;
        if logits.track_op() {
            logits.apply_op1(Known { value, gradient: Mutex::new(Some(values)) })?
        } else {
            Tensor::new(value, &Device::Cpu)?
        }
    } else {
        composed(logits, positive, excluded)?
    };
    Ok(Scores { loss, accuracy, above })
}

/// The elements in single precision.
fn host(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
}

/// What one prediction gives.
struct Outcome {
    loss: f64,
    negatives: usize,
    below: usize,
}

/// Loss of one row of logits, which becomes the gradient of `scale` times the loss.
fn evaluate(row: &mut [f32], positive: usize, excluded: Option<&[bool]>, scale: f32) -> Outcome {
    let own = row[positive];
    let mut out = 0;
    if let Some(excluded) = excluded {
        for (value, _) in row.iter_mut().zip(excluded).filter(|(_, excluded)| **excluded) {
            *value = f32::NEG_INFINITY;
        }
        out = excluded.iter().filter(|excluded| **excluded).count() - usize::from(excluded[positive]);
        row[positive] = own;
    }
    // The excluded ones are below everything but another infinity.
    let below = row.iter().map(|value| u32::from(*value < own)).sum::<u32>() as usize;
    let negatives = row.len() - 1 - out;
    let highest = row.iter().fold(own, |highest, value| if *value > highest { *value } else { highest });
    // NaN does not vanish: it stays in the sum.
    let sum = exponentials(row, highest);
    let loss = f64::from(sum).ln() - f64::from(own - highest);
    for value in row.iter_mut() {
        *value *= scale / sum;
    }
    row[positive] -= scale;
    Outcome { loss, negatives, below: below.saturating_sub(out) }
}

/// A scalar whose gradient is known.
struct Known {
    value: f32,
    gradient: Mutex<Option<Vec<f32>>>,
}

impl CustomOp1 for Known {
    fn name(&self) -> &'static str {
        "info_nce"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.value]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let gradient = self.gradient.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut gradient) = gradient else {
            candle_core::bail!("backward was called twice on one graph");
        };
        let dy = dy.to_scalar::<f32>()?;
        gradient.iter_mut().for_each(|g| *g *= dy);
        Ok(Some(Tensor::from_vec(gradient, logits.shape(), logits.device())?))
    }
}

/// The twin for other devices and types.
fn composed(logits: &Tensor, positive: &[u32], excluded: Option<&[bool]>) -> Result<Tensor> {
    let (m, c) = logits.dims2()?;
    let logits = match excluded {
        None => logits.clone(),
        Some(excluded) => {
            let masked = |(i, &out): (usize, &bool)| out && positive[i / c] as usize != i % c;
            let mask: Vec<f32> =
                excluded.iter().enumerate().map(|cell| if masked(cell) { -1e30 } else { 0.0 }).collect();
            (logits + Tensor::from_vec(mask, (m, c), logits.device())?.to_dtype(logits.dtype())?)?
        }
    };
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let all = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let own = shifted.gather(&Tensor::from_slice(positive, (m, 1), logits.device())?, 1)?;
    Ok((all - own)?.mean_all()?)
}

/// Calls `f` with the elements of a CPU tensor of `f32`, in row-major order.
fn with_slice<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> T) -> candle_core::Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(f(&storage.as_slice::<f32>()?[start..end])),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}

#[cfg(test)]
mod tests;
