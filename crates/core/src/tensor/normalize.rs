//! Rows of unit length.

use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor};

use super::storage::{slice, with};
use crate::Result;
use crate::kernels::is_native;
use crate::kernels::simd::math::dot;

/// Added to the sum of squares, *inside* the root, because the root's gradient at 0 is infinite and an all-zero row
/// would otherwise turn the whole gradient to NaN.
const EPS: f32 = 1e-12;

/// Rows scaled to unit l2 norm: `x / sqrt(sum(x^2) + 1e-12)`.
///
/// `[..., D]` to `[..., D]`.
///
/// # Errors
/// An empty last dimension.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    if is_native(x) && x.elem_count() > 0 {
        return Ok(x.contiguous()?.apply_op1(Normalize)?);
    }
    composed(x)
}

fn composed(x: &Tensor) -> Result<Tensor> {
    let norm = (x.sqr()?.sum_keepdim(D::Minus1)? + f64::from(EPS))?.sqrt()?;
    Ok(x.broadcast_div(&norm)?)
}

/// One pass over memory where the composition makes five, and two in the gradient where it makes a dozen: embeddings are
/// small, and their losses consisted mostly of such passes.
struct Normalize;

fn norm(row: &[f32]) -> f32 {
    (dot(row, row) + EPS).sqrt()
}

impl CustomOp1 for Normalize {
    fn name(&self) -> &'static str {
        "l2-normalize"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let width = layout.shape().dims().last().copied().unwrap_or(1);
        let mut y = Vec::with_capacity(x.len());
        for row in x.chunks_exact(width) {
            let scale = 1.0 / norm(row);
            y.extend(row.iter().map(|x| x * scale));
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    /// `(g - y (y . g)) / norm`, up to epsilon.
    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let width = x.dims().last().copied().unwrap_or(1);
        let mut dx = Vec::with_capacity(x.elem_count());
        with(x, |values| {
            with(gradient, |gradients| {
                for (x, g) in values.chunks_exact(width).zip(gradients.chunks_exact(width)) {
                    let scale = 1.0 / norm(x);
                    let along = dot(x, g) * scale * scale;
                    dx.extend(x.iter().zip(g).map(|(x, g)| (g - x * along) * scale));
                }
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::rng::{Key, Purpose};
    use crate::tensor::{GradCheck, check_gradients};

    fn rows(shape: &[usize]) -> Result<Tensor> {
        let mut stream = Key::new(5, Purpose::Data).stream();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    #[test]
    fn equals_the_composition_with_gradients() -> Result<()> {
        for shape in [&[3, 5][..], &[7, 37], &[2, 3, 16], &[1, 1]] {
            let x = rows(shape)?;
            let x = Var::from_tensor(&x)?;
            let weight = rows(shape)?.affine(0.5, 0.2)?;
            let mut seen = Vec::new();
            for y in [l2_normalize(&x)?, composed(&x)?] {
                let grads = (&y * &weight)?.sum_all()?.backward()?;
                let gradient = grads.get(&x).map(|g| g.flatten_all()?.to_vec1::<f32>()).transpose()?;
                seen.push((y.flatten_all()?.to_vec1::<f32>()?, gradient.unwrap_or_default()));
            }
            let close = |a: &[f32], b: &[f32]| {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5)
            };
            assert!(close(&seen[0].0, &seen[1].0) && close(&seen[0].1, &seen[1].1), "{shape:?}: {seen:?}");
        }
        Ok(())
    }

    #[test]
    fn a_row_of_zeros_has_a_finite_gradient() -> Result<()> {
        let x = Var::from_tensor(&Tensor::zeros((2, 4), DType::F32, &Device::Cpu)?)?;
        let grads = l2_normalize(&x)?.sum_all()?.backward()?;
        let gradient =
            grads.get(&x).map(|g| g.flatten_all()?.to_vec1::<f32>()).transpose()?.unwrap_or_default();
        assert!(gradient.len() == 8 && gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
        check_gradients(&[rows(&[4, 9])?], GradCheck::default(), |x| {
            Ok((l2_normalize(&x[0])? * 3.0)?.sqr()?.powf(1.5)?.sum_all()?)
        })
    }
}
