//! Differentiable helpers over Candle and the gradient checker.

mod gradcheck;

pub use gradcheck::{GradCheck, check_gradients};

use candle_core::{D, Tensor};

use crate::Result;

/// Rows scaled to unit l2 norm: `x / sqrt(sum(x^2) + eps)`, with `eps = 1e-12` *inside* the root, because the root's
/// gradient at 0 is infinite and an all-zero row would otherwise turn the whole gradient to NaN.
///
/// `[..., D]` to `[..., D]`.
///
/// # Errors
/// An empty last dimension.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let norm = (x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?;
    Ok(x.broadcast_div(&norm)?)
}
