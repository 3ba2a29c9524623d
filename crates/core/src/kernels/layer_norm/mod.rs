//! Layer normalisation over the last axis (Ba et al. 2016).

mod cpu;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result as CandleResult, Shape, Tensor};

use super::map::{FeatureMap, Form, Kept, Native, Slot, token_gradient, token_storage};
use super::memory::Buffer;
use super::sink::param_gradient;
use super::storage;
use crate::{Error, Result};

/// `(x - mean) / sqrt(variance + eps) * gamma + beta` for a map `[..., D]` made by [`FeatureMap::from_rows`], with the
/// mean and the (biased) variance of each row, and `gamma` and `beta` `[D]`.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other.
pub fn layer_norm(x: &FeatureMap, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<FeatureMap> {
    let &[d] = gamma.dims() else { return Err(Error::shape("layer norm weight", "[D]", gamma.dims())) };
    if beta.dims() != [d] {
        return Err(Error::shape("layer norm bias", format!("[{d}]"), beta.dims()));
    }
    let fits = |dims: &[usize]| match dims.last() {
        Some(&last) if last == d && d > 0 => Ok(()),
        _ => Err(Error::shape("layer norm", format!("[..., {d}]"), dims)),
    };
    Ok(FeatureMap(match &x.0 {
        Form::Plain(x) => {
            fits(x.dims())?;
            Form::Plain(composed(x, gamma, beta, eps)?)
        }
        Form::Native(x) => {
            fits(&x.dims)?;
            Form::Native(native(x, gamma, beta, eps)?)
        }
    }))
}

fn composed(x: &Tensor, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    Ok(normal.broadcast_mul(gamma)?.broadcast_add(beta)?)
}

fn native(x: &Native, gamma: &Tensor, beta: &Tensor, eps: f64) -> Result<Native> {
    let (rows, gamma) = (x.rows(), gamma.contiguous()?);
    let mut y = Buffer::new(x.values.len());
    let (mut mean, mut inv_std) = (Buffer::new(rows), Buffer::new(rows));
    storage::with(&gamma, |gamma| {
        storage::with(beta, |beta| {
            let out = cpu::Forward { y: &mut y, mean: &mut mean, inv_std: &mut inv_std };
            cpu::LayerNorm { rows, x: &x.values, gamma }.forward(beta, eps, out);
            Ok(())
        })
    })?;
    Native::make(x.dims.clone(), y, |to| {
        let x_kept = Kept::new(&x.values);
        let op = LayerNormOp { rows, x: x_kept, mean, inv_std, from: x.slot.clone(), to };
        x.token.apply_op3(&gamma, beta, op)
    })
}

#[derive(Debug)]
struct LayerNormOp {
    rows: usize,
    x: Kept,
    mean: Buffer,
    inv_std: Buffer,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        _token: &CpuStorage,
        _: &Layout,
        _gamma: &CpuStorage,
        _: &Layout,
        _beta: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        token: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let x = self.x.take()?;
        let dy = self.to.take(x.len());
        let d = gamma.elem_count();
        let (mut d_gamma, mut d_beta) = (vec![0f32; d], vec![0f32; d]);
        storage::with(gamma, |gamma| {
            let norm = cpu::LayerNorm { rows: self.rows, x: &x, gamma };
            let moments = cpu::Moments { mean: &self.mean, inv_std: &self.inv_std };
            self.from.update(|gathered| {
                let add = gathered.is_some();
                let mut dx = gathered.unwrap_or_else(|| Buffer::new(x.len()));
                let out = cpu::Backward { dx: &mut dx, add, d_gamma: &mut d_gamma, d_beta: &mut d_beta };
                norm.backward(moments, &dy, out);
                dx
            });
            Ok(())
        })?;
        let d_gamma = if gamma.track_op() { param_gradient(gamma, d_gamma)? } else { None };
        let d_beta = if beta.track_op() { param_gradient(beta, d_beta)? } else { None };
        Ok((token_gradient(token)?, d_gamma, d_beta))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_same, random};
    use crate::tensor::{GradCheck, check_gradients};

    #[test]
    fn agrees_with_the_twin_and_with_differences() -> Result<()> {
        for shape in [&[2usize, 3, 7][..], &[5, 33]] {
            let d = shape[shape.len() - 1];
            let inputs = [random("x", shape)?, random("gamma", &[d])?, random("beta", &[d])?];
            let ours = |t: &[Tensor]| layer_norm(&FeatureMap::from_rows(&t[0])?, &t[1], &t[2], 1e-5)?.rows();
            assert_same(&inputs, ours, |t| composed(&t[0], &t[1], &t[2], 1e-5))?;
            check_gradients(&inputs, GradCheck::default(), ours)?;
        }
        Ok(())
    }

    #[test]
    fn gradients_are_added_to_what_others_gave() -> Result<()> {
        let inputs = [random("x", &[4, 20])?, random("gamma", &[20])?, random("beta", &[20])?];
        let ours = |t: &[Tensor]| {
            let x = FeatureMap::from_rows(&t[0])?;
            crate::kernels::residual(&x, &layer_norm(&x, &t[1], &t[2], 1e-6)?, None)?.rows()
        };
        assert_same(&inputs, ours, |t| Ok((&t[0] + composed(&t[0], &t[1], &t[2], 1e-6)?)?))
    }

    #[test]
    fn wrong_shapes_are_errors() -> Result<()> {
        let x = FeatureMap::from_rows(&random("x", &[2, 3])?)?;
        let (three, four) = (random("a", &[3])?, random("b", &[4])?);
        assert!(layer_norm(&x, &four, &four, 1e-5).is_err());
        assert!(layer_norm(&x, &three, &four, 1e-5).is_err());
        assert!(layer_norm(&x, &random("c", &[1, 3])?, &three, 1e-5).is_err());
        Ok(())
    }
}
