//! Eq. 2 of the paper, in the two scales in use.

use candle_core::{D, Tensor};
use contrastive_core::tensor::l2_normalize;
use contrastive_core::{Error, Result};

use crate::config::LossForm;

/// `‖q̄ − z̄‖² = 2 − 2 cos(q, z)` of rows scaled to unit length, averaged (eq. 2): `q`, `z` `[N, D]` to a scalar in 0..4.
///
/// # Errors
/// Shapes that differ.
pub fn regression_loss(q: &Tensor, z: &Tensor) -> Result<Tensor> {
    if q.dims().len() != 2 || q.dims() != z.dims() {
        return Err(Error::shape("regression loss", format!("[N, D] like {:?}", q.dims()), z.dims()));
    }
    let difference = (l2_normalize(q)? - l2_normalize(z)?)?;
    Ok(difference.sqr()?.sum(D::Minus1)?.mean_all()?)
}

/// The loss of both directions: the online network's predictions `q1`, `q2` of the two views against the target
/// network's projections `z1`, `z2`, each `[N, D]`. Pass the projections cut from the graph.
///
/// # Errors
/// Shapes that differ.
pub fn byol_loss([q1, q2]: [&Tensor; 2], [z1, z2]: [&Tensor; 2], form: LossForm) -> Result<Tensor> {
    let sum = (regression_loss(q1, z2)? + regression_loss(q2, z1)?)?; // 4 − 2 cos − 2 cos
    Ok(match form {
        LossForm::Paper => sum,
        LossForm::Cosine => sum.affine(0.25, -1.0)?,
    })
}
