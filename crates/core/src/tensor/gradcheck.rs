//! Analytic gradients against central differences.

use candle_core::{Tensor, Var};

use crate::rng::{Key, Purpose};
use crate::{Error, Result};

/// Settings of [`check_gradients`]. The defaults suit f32 functions whose values and gradients are of order one.
#[derive(Debug, Clone, Copy)]
pub struct GradCheck {
    /// Step of the difference quotient.
    pub step: f64,
    /// Largest error relative to the largest gradient of the same input.
    pub tolerance: f64,
    /// How many elements of each input are probed (all, if it has fewer).
    pub probes: usize,
}

impl Default for GradCheck {
    fn default() -> Self {
        Self { step: 1e-2, tolerance: 1e-2, probes: 40 }
    }
}

/// Compares the backward pass of `f` with central differences for every input.
///
/// `f` may return a tensor of any shape: it is contracted with fixed random weights to a scalar, summed in f64 so that
/// the quotient is not lost in rounding.
///
/// # Errors
/// [`Error::Data`] naming input, element, both values; also an input that `f` gives no gradient at all.
pub fn check_gradients(
    inputs: &[Tensor],
    settings: GradCheck,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let vars = inputs.iter().map(Var::from_tensor).collect::<Result<Vec<_>, _>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&tracked)?;
    let mut stream = Key::new(0, Purpose::Data).name("gradcheck").stream();
    let weights: Vec<f32> = (0..out.elem_count()).map(|_| stream.normal() as f32).collect();
    let contract = Tensor::from_vec(weights.clone(), out.shape(), out.device())?.to_dtype(out.dtype())?;
    let grads = (&out * &contract)?.sum_all()?.backward()?;
    let value = |points: &[Tensor]| -> Result<f64> {
        let y = f(points)?.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        Ok(y.iter().zip(&weights).map(|(y, w)| y * f64::from(*w)).sum())
    };
    for (i, input) in inputs.iter().enumerate() {
        let Some(gradient) = grads.get(&tracked[i]) else {
            return Err(Error::data("gradient check", format!("input {i} has no gradient")));
        };
        let gradient = gradient.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let scale = gradient.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
        let base = input.to_dtype(candle_core::DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let mut places = stream.permutation(base.len());
        places.truncate(settings.probes);
        for place in places {
            let moved = |delta: f64| -> Result<f64> {
                let mut data = base.clone();
                data[place] += delta;
                let moved = Tensor::from_vec(data, input.shape(), input.device())?.to_dtype(input.dtype())?;
                let mut points = inputs.to_vec();
                points[i] = moved;
                value(&points)
            };
            let numeric = (moved(settings.step)? - moved(-settings.step)?) / (2.0 * settings.step);
            let error = (numeric - gradient[place]).abs() / scale;
            // NaN must not pass.
            if error.is_nan() || error > settings.tolerance {
                return Err(Error::data(
                    "gradient check",
                    format!(
                        "input {i}, element {place}: backward {}, differences {numeric}, error {error:.2e}",
                        gradient[place]
                    ),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn accepts_right_and_refuses_wrong_gradients() -> Result<()> {
        let x = Tensor::new(&[0.3f32, -1.2, 0.8], &Device::Cpu)?;
        check_gradients(std::slice::from_ref(&x), GradCheck::default(), |x| Ok((x[0].sqr()? * &x[0])?))?;
        // x * sg(x) has the value of x^2 and half its gradient.
        let wrong =
            check_gradients(std::slice::from_ref(&x), GradCheck::default(), |x| Ok((&x[0] * x[0].detach())?));
        assert!(wrong.is_err());
        let none = check_gradients(&[x], GradCheck::default(), |x| Ok(x[0].detach()));
        assert!(none.is_err());
        Ok(())
    }
}
