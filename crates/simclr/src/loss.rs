//! Eq. 1 of the paper, in the two scales in use.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::dist::Comm;
use contrastive_core::loss::{ContrastiveLoss, nt_xent};

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
