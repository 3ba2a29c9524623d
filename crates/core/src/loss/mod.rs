//! Losses: pure functions over tensors. They own no state and read no file.

mod bank;
mod cross_entropy;
mod info_nce;
mod nt_xent;
#[cfg(test)]
mod ranks_tests;
#[cfg(test)]
mod tests_support;
mod tiled;
mod view_pairs;

pub use bank::{estimate_z, full_softmax, nce, sampled_softmax};
pub use cross_entropy::{cross_entropy, soft_cross_entropy};
pub use info_nce::{InBatch, info_nce_in_batch, info_nce_queue};
pub use nt_xent::nt_xent;

use candle_core::{DType, Tensor};

use crate::tensor::{l2_normalize, softplus};
use crate::{Error, Result};

/// What a contrastive loss gives back.
#[derive(Debug, Clone)]
pub struct ContrastiveLoss {
    /// The mean over this rank's rows, a scalar to differentiate.
    pub loss: Tensor,
    /// The part of this rank's rows whose positive is more similar than each of their negatives (top-1 accuracy of the
    /// pretext task; a tie counts as wrong, so that collapsed embeddings score 0), an f32 scalar cut from the graph.
    pub accuracy: Tensor,
}

impl ContrastiveLoss {
    /// From each row's positive logit `[M]` and its negatives: `-log(e^p / (e^p + Σ e^n)) = softplus(lse(n) - p)`,
    /// which keeps its digits when the loss is small.
    fn new(positive: &Tensor, negatives: &tiled::Negatives) -> Result<Self> {
        let x = (&negatives.lse - positive)?;
        let loss = softplus(&x)?.mean_all()?;
        let right = positive.detach().gt(&negatives.max)?;
        Ok(Self { loss, accuracy: right.to_dtype(DType::F32)?.mean_all()? })
    }
}

/// `1 / temperature`.
fn scale(temperature: f64) -> Result<f64> {
    if temperature.is_finite() && temperature > 0.0 && (1.0 / temperature).is_finite() {
        return Ok(1.0 / temperature);
    }
    Err(Error::config("temperature", format!("must be a positive, finite number, got {temperature}")))
}

/// Embeddings as the losses compute with them: at least f32, of unit length if wanted.
fn prepare(x: &Tensor, normalize: bool) -> Result<Tensor> {
    let x = if x.dtype() == DType::F64 { x.clone() } else { x.to_dtype(DType::F32)? };
    if normalize { l2_normalize(&x) } else { Ok(x) }
}

/// `scale * a_i . b_i` for each row: `[M, D]`, `[M, D]` to `[M]`.
fn paired_logits(a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    Ok(((a * b)?.sum(1)? * scale)?)
}
