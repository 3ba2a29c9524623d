//! Rectified linear unit.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::map::{FeatureMap, Form, Kept, Native, Slot, chunks, token_gradient, token_storage};
use super::memory::Buffer;
use super::simd::vectorized;
use crate::Result;

/// `max(x, 0)`, any shape. The gradient at 0 is 0, as in PyTorch (Candle's own passes 1).
///
/// # Errors
/// Candle's.
pub fn relu(x: &FeatureMap) -> Result<FeatureMap> {
    Ok(FeatureMap(match &x.0 {
        Form::Plain(x) => Form::Plain(composed(x)?),
        Form::Native(x) => {
            let mut y = Buffer::new(x.values.len());
            chunks(&mut y, |start, y| clip(&x.values[start..], y));
            let y = Arc::new(y);
            let slot = Arc::new(Slot::default());
            let op = ReluOp { y: Kept::new(&y), from: x.slot.clone(), to: slot.clone() };
            Form::Native(Native {
                token: x.token.apply_op1(op)?,
                dims: x.dims.clone(),
                values: y,
                slot,
                recipe: None,
            })
        }
    }))
}

pub(crate) fn composed(x: &Tensor) -> Result<Tensor> {
    // NaN must stay NaN: the mask multiplies.
    let mask = x.gt(&x.zeros_like()?)?.to_dtype(x.dtype())?;
    Ok((x * mask.detach())?)
}

#[derive(Debug)]
struct ReluOp {
    y: Kept,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl CustomOp1 for ReluOp {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, _token: &CpuStorage, _layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(&self, token: &Tensor, _y: &Tensor, _dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let y = self.y.take()?;
        let mut dx = self.to.take(y.len());
        chunks(&mut dx, |start, dx| mask(&y[start..], dx));
        self.from.add(dx);
        token_gradient(token)
    }
}

vectorized! {
    fn clip(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            // A comparison that NaN passes through.
            *y = if *x <= 0.0 { 0.0 } else { *x };
        }
    }

    /// The gradient before a ReLU whose output was `y`.
    fn mask(y: &[f32], dy: &mut [f32]) {
        for (dy, y) in dy.iter_mut().zip(y) {
            *dy = if *y > 0.0 { *dy } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{GradCheck, check_gradients};
    use candle_core::{Device, Var};

    #[test]
    fn corners() -> Result<()> {
        let x = Var::from_tensor(&Tensor::new(&[-1f32, 0.0, -0.0, 2.0, f32::NAN], &Device::Cpu)?)?;
        for native in [true, false] {
            let y = if native { relu(&FeatureMap::from_rows(&x)?)?.rows()? } else { composed(&x)? };
            let values = y.to_vec1::<f32>()?;
            assert_eq!(values[..4], [0.0, 0.0, 0.0, 2.0]);
            assert!(values[4].is_nan());
            let grads = y.sum_all()?.backward()?;
            assert_eq!(grads.get(&x).expect("gradient").to_vec1::<f32>()?[..4], [0.0, 0.0, 0.0, 1.0]);
        }
        let x = Tensor::new(&[[-1f32, 0.5], [3.0, -2.0]], &Device::Cpu)?;
        check_gradients(&[x], GradCheck::default(), |x| relu(&FeatureMap::from_rows(&x[0])?)?.rows())
    }
}
