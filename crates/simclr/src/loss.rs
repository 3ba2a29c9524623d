//! Eq. 1 of the paper, in the two scales in use, and v2's distillation.

use candle_core::{D, Tensor};
use contrastive_core::dist::Comm;
use contrastive_core::loss::{ContrastiveLoss, nt_xent, soft_cross_entropy};
use contrastive_core::{Error, Result};

use crate::config::LossForm;

/// NT-Xent of two views' projections `z1`, `z2`, each `[N, D]`, against all ranks' projections.
///
/// # Errors
/// Shapes that differ, a temperature that is not positive, a rank that is gone.
pub fn simclr_loss(
    z1: &Tensor,
    z2: &Tensor,
    temperature: f64,
    form: LossForm,
    comm: &Comm,
) -> Result<ContrastiveLoss> {
    let mut out = nt_xent(z1, z2, temperature, true, comm)?;
    if form == LossForm::Repository {
        out.loss = (out.loss * 2.0)?;
    }
    Ok(out)
}

/// The distillation of v2 (section 2, eq. 2): the mean over images of `-Σ_y P_T(y|x) log P_S(y|x)` with
/// `P(y|x) = softmax(logits / T)`. `student` and `teacher` are logits `[N, classes]`; the teacher's get no gradient.
///
/// # Errors
/// Shapes that differ, a temperature that is not positive.
pub fn distillation_loss(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::config("temperature", format!("must be above 0 and finite, got {temperature}")));
    }
    let logits = (teacher.detach() / temperature)?;
    let powers = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    let target = powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?;
    soft_cross_entropy(&(student / temperature)?, &target)
}
