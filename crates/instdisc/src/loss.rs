//! The paper's proximal term. The losses over the bank are [`contrastive_core::loss`]'s `nce`, `sampled_softmax` and
//! `full_softmax`, which CMC takes too.

use candle_core::Tensor;
use contrastive_core::Result;

pub use contrastive_core::loss::{estimate_z, full_softmax, nce, sampled_softmax};

/// The proximal term without its weight: the mean over samples of `‖f − v‖²`, where `own` `[B, D]` holds each sample's
/// row of the bank.
///
/// # Errors
/// Shapes that do not fit.
pub fn proximal(features: &Tensor, own: &Tensor) -> Result<Tensor> {
    Ok((features - own.detach())?.sqr()?.sum(1)?.mean_all()?)
}
