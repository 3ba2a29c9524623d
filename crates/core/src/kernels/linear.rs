//! Fully connected layer.

use candle_core::Tensor;

use super::map::{FeatureMap, Form, Native};
use super::memory::Buffer;
use super::precision::{Precision, precision};
use super::weighted::{Weighted, attach};
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
    attach(Linear { extents, precision }, x, &w, bias, dims, y)
}

struct Linear {
    /// Rows, inputs, outputs.
    extents: (usize, usize, usize),
    precision: Precision,
}

impl Weighted for Linear {
    const NAME: &'static str = "linear";

    fn inputs(&self) -> usize {
        self.extents.0 * self.extents.1
    }

    fn outputs(&self) -> (usize, usize) {
        (self.extents.0, self.extents.2)
    }

    fn backward_weight(&self, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        gemm::at::linear_backward_weight(self.precision, self.extents, x, dy, dw);
    }

    fn backward_data(&self, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
        gemm::at::linear_backward_data(self.precision, self.extents, dy, w, dx, add);
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
