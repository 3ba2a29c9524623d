//! Eqs. 1 and 2 of the paper.

use candle_core::{D, Tensor};
use contrastive_core::tensor::l2_normalize;
use contrastive_core::{Error, Result};

/// `D(p, z) = −cos(p, z)`, averaged over the rows (eq. 1): `p`, `z` `[N, D]` to a scalar in −1..1.
///
/// # Errors
/// Shapes that differ.
pub fn negative_cosine(p: &Tensor, z: &Tensor) -> Result<Tensor> {
    if p.dims().len() != 2 || p.dims() != z.dims() {
        return Err(Error::shape("negative cosine", format!("[N, D] like {:?}", p.dims()), z.dims()));
    }
    Ok((l2_normalize(p)? * l2_normalize(z)?)?.sum(D::Minus1)?.mean_all()?.neg()?)
}

/// `½ D(p₁, z₂) + ½ D(p₂, z₁)` of the two views' predictions `p1`, `p2` and projections `z1`, `z2`, each `[N, D]`
/// (eqs. 2 and 4). Pass the projections cut from the graph.
///
/// # Errors
/// Shapes that differ.
pub fn simsiam_loss([p1, p2]: [&Tensor; 2], [z1, z2]: [&Tensor; 2]) -> Result<Tensor> {
    Ok(((negative_cosine(p1, z2)? + negative_cosine(p2, z1)?)? * 0.5)?)
}
