//! InfoNCE against a queue (v1, v2) and against the batch (v3).

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::dist::Comm;
use contrastive_core::loss::{ContrastiveLoss, InBatch, info_nce_in_batch, info_nce_queue};

/// v1 and v2 (He et al. 2020, eq. 1): `−log exp(q·k₊/τ) / (exp(q·k₊/τ) + Σ_j exp(q·n_j/τ))`, the mean over the queries.
///
/// Queries `[N, D]`, their keys `[N, D]` and the queue `[K, D]` have rows of unit length. Keys and queue are constants.
///
/// # Errors
/// Shapes that differ, a temperature that is not positive.
pub fn queue_loss(
    query: &Tensor,
    keys: &Tensor,
    queue: &Tensor,
    temperature: f64,
) -> Result<ContrastiveLoss> {
    info_nce_queue(query, &keys.detach(), &queue.detach(), temperature, false)
}

/// v3 (algorithm 1, `ctr`): `2τ` times InfoNCE of queries `[N, D]` whose positives are this rank's `keys` `[N, D]` and
/// whose negatives are all ranks' other keys. Rows are scaled to unit length; keys are constants.
///
/// Keys are those of the other view, so no negative comes from a query's own view. The factor 2τ keeps the gradient's
/// size as τ changes.
///
/// # Errors
/// Shapes that differ, a temperature that is not positive, a rank that is gone.
pub fn v3_loss(query: &Tensor, keys: &Tensor, temperature: f64, comm: &Comm) -> Result<ContrastiveLoss> {
    let settings = InBatch { normalize: true, key_gradient: false };
    let mut out = info_nce_in_batch(query, keys, temperature, settings, comm)?;
    out.loss = (out.loss * (2.0 * temperature))?;
    Ok(out)
}
