//! The updates as plain Candle operations, for devices without the fused pass and parameters that are not f32.
//! Moments are f32 tensors on the parameter's device; nothing is read back to the host.

use candle_core::{DType, Tensor, Var};

use super::engine::{AdamUpdate, MomentumUpdate};
use crate::Result;

fn norm(x: &Tensor) -> Result<Tensor> {
    Ok(x.sqr()?.sum_all()?.sqrt()?)
}

pub(super) fn store(parameter: &Var, value: &Tensor) -> Result<()> {
    Ok(parameter.set(&value.to_dtype(parameter.dtype())?.contiguous()?)?)
}

/// See [`super::fused::momentum`]; `g` is f32.
pub(super) fn momentum(
    parameter: &Var,
    g: &Tensor,
    velocity: Option<&mut Tensor>,
    update: MomentumUpdate,
) -> Result<()> {
    let p = parameter.as_detached_tensor().to_dtype(DType::F32)?;
    let decayed = if update.decay == 0.0 { g.clone() } else { (g + (&p * update.decay)?)? };
    let mut lr = update.lr;
    let mut d = match update.trust {
        None => decayed,
        Some(trust) => {
            let p_norm = norm(&p)?;
            let g_norm = norm(if trust.apex { g } else { &decayed })?;
            let both = (p_norm.gt(0.0)?.to_dtype(DType::F32)? * g_norm.gt(0.0)?.to_dtype(DType::F32)?)?;
            let mut denominator = g_norm;
            if trust.apex {
                denominator = ((denominator + (&p_norm * update.decay)?)? + trust.eps)?;
            }
            // Where a norm is 0 the quotient may be 0/0; it is replaced, so the denominator need only be nonzero.
            let safe = (denominator + both.affine(-1.0, 1.0)?)?;
            let mut ratio = ((p_norm * trust.coefficient)? / safe)?;
            if trust.clip {
                ratio = if lr > 0.0 { (ratio / lr)?.minimum(1.0)? } else { ratio.ones_like()? };
            }
            let applies = both.gt(0.0)?;
            let ratio = applies.where_cond(&ratio, &ratio.ones_like()?)?;
            let d =
                if trust.apex { applies.broadcast_as(g.shape())?.where_cond(&decayed, g)? } else { decayed };
            d.broadcast_mul(&ratio)?
        }
    };
    if update.rate_inside {
        d = (d * lr)?;
        lr = 1.0;
    }
    let direction = match velocity {
        None => d,
        Some(velocity) => {
            *velocity = ((&*velocity * update.momentum)? + &d)?.detach();
            if update.nesterov { (d + (&*velocity * update.momentum)?)? } else { velocity.clone() }
        }
    };
    store(parameter, &(p - (direction * lr)?)?)
}

/// See [`super::fused::adam`]; `g` is f32.
pub(super) fn adam(
    parameter: &Var,
    g: &Tensor,
    (m, v): (&mut Tensor, &mut Tensor),
    update: AdamUpdate,
) -> Result<()> {
    let (keep, penalty) = update.decays();
    let (step_size, root) = update.corrections();
    let [beta1, beta2] = update.betas;
    let p = parameter.as_detached_tensor().to_dtype(DType::F32)?;
    let d = if penalty == 0.0 { g.clone() } else { (g + (&p * penalty)?)? };
    *m = (&*m + ((&d - &*m)? * (1.0 - beta1))?)?.detach();
    *v = ((&*v * beta2)? + (d.sqr()? * (1.0 - beta2))?)?.detach();
    let denominator = ((v.sqrt()? / root)? + update.eps)?;
    let p = if keep == 1.0 { p } else { (p * keep)? };
    store(parameter, &(p - ((&*m / denominator)? * step_size)?)?)
}
