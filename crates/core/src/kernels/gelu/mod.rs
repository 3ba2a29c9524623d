//! The Gaussian error linear unit in its exact form, `x * normal_cdf(x)` (Hendrycks & Gimpel 2016).

mod cpu;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use super::map::{FeatureMap, Form, Kept, Native, Slot, token_gradient, token_storage};
use super::memory::Buffer;
use crate::Result;

/// `x * (1 + erf(x / sqrt 2)) / 2`, any shape.
///
/// # Errors
/// Candle's.
pub fn gelu(x: &FeatureMap) -> Result<FeatureMap> {
    Ok(FeatureMap(match &x.0 {
        Form::Plain(x) => Form::Plain(x.gelu_erf()?),
        Form::Native(x) => {
            let mut y = Buffer::new(x.values.len());
            cpu::forward(&x.values, &mut y);
            Form::Native(Native::make(x.dims.clone(), y, |to| {
                let op = GeluOp { x: Kept::new(&x.values), from: x.slot.clone(), to };
                x.token.apply_op1(op)
            })?)
        }
    }))
}

#[derive(Debug)]
struct GeluOp {
    x: Kept,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl CustomOp1 for GeluOp {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, _token: &CpuStorage, _layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(&self, token: &Tensor, _y: &Tensor, _dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let x = self.x.take()?;
        let mut dx = self.to.take(x.len());
        cpu::backward(&x, &mut dx);
        self.from.add(dx);
        token_gradient(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_same, random};
    use crate::tensor::{GradCheck, check_gradients};

    #[test]
    fn agrees_with_the_twin_and_with_differences() -> Result<()> {
        let x = [(random("x", &[5, 41])? * 3.0)?];
        let ours = |t: &[Tensor]| gelu(&FeatureMap::from_rows(&t[0])?)?.rows();
        assert_same(&x, ours, |t| Ok(t[0].gelu_erf()?))?;
        check_gradients(&x, GradCheck::default(), ours)
    }
}
