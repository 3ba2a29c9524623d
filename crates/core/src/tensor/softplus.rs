//! `log(1 + e^x)`.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::storage::slice;
use crate::Result;
use crate::kernels::is_native;

/// `log(1 + e^x)`, without overflow and to the last digits on both sides of 0. Any shape.
///
/// # Errors
/// Candle's.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    if is_native(x) {
        return Ok(x.contiguous()?.apply_op1(Softplus)?);
    }
    composed(x)
}

fn composed(x: &Tensor) -> Result<Tensor> {
    // At 0 Candle's derivatives of relu (1) and abs (1) add up to the right 1/2.
    Ok((x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?)
}

/// One pass where the composition makes six, and one in the gradient where it makes a dozen.
struct Softplus;

impl CustomOp1 for Softplus {
    fn name(&self) -> &'static str {
        "softplus"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = slice(storage, layout)?.iter().map(|&x| x.max(0.0) + (-x.abs()).exp().ln_1p()).collect();
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let slopes = x.flatten_all()?.to_vec1::<f32>()?;
        let gradients = gradient.flatten_all()?.to_vec1::<f32>()?;
        let dx: Vec<f32> = slopes.iter().zip(gradients).map(|(x, g)| g / (1.0 + (-x).exp())).collect();
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::tensor::{GradCheck, check_gradients};

    #[test]
    fn equals_the_composition_with_gradients() -> Result<()> {
        let x: Vec<f32> = (-60..=60).map(|i| i as f32 * 1.7).collect();
        let x = Var::from_tensor(&Tensor::new(x, &Device::Cpu)?)?;
        let mut seen = Vec::new();
        for y in [softplus(&x)?, composed(&x)?] {
            let grads = y.sum_all()?.backward()?;
            let gradient = grads.get(&x).map(|g| g.to_vec1::<f32>()).transpose()?.unwrap_or_default();
            seen.push([y.to_vec1::<f32>()?, gradient].concat());
        }
        assert_eq!(seen[0].len(), 242);
        assert!(
            seen[0].iter().zip(&seen[1]).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0)),
            "{seen:?}"
        );
        Ok(())
    }

    #[test]
    fn the_gradient_is_that_of_differences() -> Result<()> {
        let x = Tensor::new(&[-3.0f32, -0.4, 0.0, 0.7, 5.0], &Device::Cpu)?;
        check_gradients(&[x], GradCheck::default(), |x| Ok(softplus(&x[0])?.sqr()?.sum_all()?))
    }
}
