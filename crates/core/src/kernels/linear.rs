//! Fully connected layer.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::map::{FeatureMap, Form, Kept, Native, Slot, token_gradient, token_storage};
use super::memory::Buffer;
use super::precision::{Precision, precision};
use super::sink::param_gradient;
use super::{gemm, storage};
use crate::{Error, Result};

/// `x W^T + b` for a map made by [`FeatureMap::from_rows`]: `[..., I]` to `[..., O]` with `w` `[O, I]`, `bias` `[O]`.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other.
pub fn linear(x: &FeatureMap, w: &Tensor, bias: Option<&Tensor>) -> Result<FeatureMap> {
    let &[outputs, inputs] = w.dims() else { return Err(Error::shape("linear weight", "[O, I]", w.dims())) };
    if let Some(bias) = bias
        && bias.dims() != [outputs]
    {
        return Err(Error::shape("linear bias", format!("[{outputs}]"), bias.dims()));
    }
    let fits = |dims: &[usize]| match dims.last() {
        Some(&last) if last == inputs && inputs > 0 => Ok(()),
        _ => Err(Error::shape("linear", format!("[..., {inputs}]"), dims)),
    };
    Ok(FeatureMap(match &x.0 {
        Form::Plain(x) => {
            fits(x.dims())?;
            Form::Plain(composed(x, w, bias)?)
        }
        Form::Native(x) => {
            fits(&x.dims)?;
            Form::Native(native(x, w, bias)?)
        }
    }))
}

fn composed(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = w.dims2()?;
    let mut shape = x.dims().to_vec();
    shape.pop();
    shape.push(outputs);
    let y = x.reshape(((), inputs))?.matmul(&w.t()?)?;
    let y = match bias {
        None => y,
        Some(bias) => y.broadcast_add(bias)?,
    };
    Ok(y.reshape(shape)?)
}

fn native(x: &Native, w: &Tensor, bias: Option<&Tensor>) -> Result<Native> {
    let (outputs, inputs) = w.dims2()?;
    let (w, rows, precision) = (w.contiguous()?, x.rows(), precision());
    let extents = (rows, inputs, outputs);
    let mut y = Buffer::new(rows * outputs);
    storage::with(&w, |w| match bias {
        None => {
            gemm::at::linear(precision, extents, &x.values, w, None, &mut y);
            Ok(())
        }
        Some(bias) => storage::with(bias, |bias| {
            gemm::at::linear(precision, extents, &x.values, w, Some(bias), &mut y);
            Ok(())
        }),
    })?;
    let mut dims = x.dims.clone();
    dims.pop();
    dims.push(outputs);
    Native::make(dims, y, |to| {
        // The input is kept only for the weight gradient.
        let kept = w.track_op().then(|| Kept::of(x));
        let op = LinearOp { extents, precision, x: kept, from: x.slot.clone(), to };
        match bias {
            None => x.token.apply_op2(&w, op),
            Some(bias) => x.token.apply_op3(&w, bias, op),
        }
    })
}

#[derive(Debug)]
struct LinearOp {
    /// Rows, inputs, outputs.
    extents: (usize, usize, usize),
    precision: Precision,
    x: Option<Kept>,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl LinearOp {
    /// Hands the input gradient on and returns the gradients of weight and bias.
    fn backward(
        &self,
        token: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let Self { extents, precision, .. } = *self;
        let (rows, inputs, outputs) = extents;
        let dy = self.to.take(rows * outputs);
        let dw = match &self.x {
            Some(x) if w.track_op() => {
                let mut dw = vec![0f32; outputs * inputs];
                gemm::at::linear_backward_weight(precision, extents, &x.take()?, &dy, &mut dw);
                param_gradient(w, dw)?
            }
            _ => None,
        };
        let d_bias = match bias {
            Some(bias) if bias.track_op() => {
                let mut sums = vec![0f32; outputs];
                gemm::column_sums(rows, outputs, &dy, &mut sums);
                param_gradient(bias, sums)?
            }
            _ => None,
        };
        if token.track_op() {
            storage::with(w, |w| {
                self.from.update(|gathered| {
                    let add = gathered.is_some();
                    let mut dx = gathered.unwrap_or_else(|| Buffer::new(rows * inputs));
                    gemm::at::linear_backward_data(precision, extents, &dy, w, &mut dx, add);
                    dx
                });
                Ok(())
            })?;
        }
        Ok((dw, d_bias))
    }
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        _token: &CpuStorage,
        _: &Layout,
        _w: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        token: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let (dw, _) = self.backward(token, w, None)?;
        Ok((token_gradient(token)?, dw))
    }
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear_bias"
    }

    fn cpu_fwd(
        &self,
        _token: &CpuStorage,
        _: &Layout,
        _w: &CpuStorage,
        _: &Layout,
        _bias: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        token: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dw, d_bias) = self.backward(token, w, Some(bias))?;
        Ok((token_gradient(token)?, dw, d_bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_same, random};
    use crate::tensor::{GradCheck, check_gradients};

    #[test]
    fn agrees_with_the_twin_and_with_differences() -> Result<()> {
        for (x, w, operands) in [(&[3usize, 5, 7][..], [4, 7], 3), (&[6, 33], [40, 33], 2)] {
            let inputs = [random("x", x)?, random("w", &w)?, random("b", &w[..1])?];
            let ours = |t: &[Tensor]| linear(&FeatureMap::from_rows(&t[0])?, &t[1], t.get(2))?.rows();
            assert_same(&inputs[..operands], ours, |t| composed(&t[0], &t[1], t.get(2)))?;
            check_gradients(&inputs[..operands], GradCheck::default(), ours)?;
        }
        let x = FeatureMap::from_rows(&random("x", &[2, 3])?)?;
        assert!(linear(&x, &random("w", &[4, 5])?, None).is_err());
        assert!(linear(&x, &random("w", &[4, 3])?, Some(&random("b", &[3])?)).is_err());
        Ok(())
    }
}
