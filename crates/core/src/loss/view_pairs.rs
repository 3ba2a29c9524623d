//! The logits of positives where two views of a batch stand in one tensor.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::paired_logits;
use crate::Result;
use crate::kernels::is_native;
use crate::tensor::storage;

/// `scale * z_i . z_p` for each row, where p is the other view of its sample: `z` `[2B, D]` holds the first views, then
/// the second ones; `[2B]`.
pub(super) fn view_logits(z: &Tensor, scale: f64) -> Result<Tensor> {
    if is_native(z) {
        return Ok(z.contiguous()?.apply_op1(ViewPairs { scale: scale as f32 })?);
    }
    composed(z, scale)
}

fn composed(z: &Tensor, scale: f64) -> Result<Tensor> {
    let batch = z.dim(0)? / 2;
    // Both views' rows have the same positive logits.
    let logits = paired_logits(&z.narrow(0, 0, batch)?, &z.narrow(0, batch, batch)?, scale)?;
    Ok(Tensor::cat(&[&logits, &logits], 0)?)
}

/// One pass over the embeddings each way; the composition pads, copies and adds them six times in its gradient.
struct ViewPairs {
    scale: f32,
}

impl CustomOp1 for ViewPairs {
    fn name(&self) -> &'static str {
        "view-pairs"
    }

    fn cpu_fwd(&self, z: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, d) = layout.shape().dims2()?;
        let (first, second) = storage::slice(z, layout)?.split_at(rows / 2 * d);
        let dot = |(a, b): (&[f32], &[f32])| self.scale * a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let mut logits: Vec<f32> = first.chunks_exact(d).zip(second.chunks_exact(d)).map(dot).collect();
        logits.extend_from_within(..);
        Ok((CpuStorage::F32(logits), Shape::from(rows)))
    }

    fn bwd(&self, z: &Tensor, _logits: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (rows, d) = z.dims2()?;
        let batch = rows / 2;
        let gradient = gradient.to_vec1::<f32>()?;
        let mut dz = Vec::with_capacity(rows * d);
        storage::with(z, |z| {
            for row in 0..rows {
                let other = (row + batch) % rows;
                let factor = self.scale * (gradient[row] + gradient[other]);
                dz.extend(z[other * d..][..d].iter().map(|z| factor * z));
            }
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(dz, z.shape(), z.device())?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::loss::tests_support::embeddings;
    use crate::tensor::{GradCheck, check_gradients};

    #[test]
    fn equals_the_composition_with_gradients() -> Result<()> {
        for (batch, d) in [(1, 3), (5, 1), (7, 33)] {
            let z = Tensor::cat(&[embeddings(1, batch, d), embeddings(2, batch, d)], 0)?;
            let z = Var::from_tensor(&z.to_dtype(DType::F32)?)?;
            let weights = Tensor::arange(1f32, (2 * batch + 1) as f32, &Device::Cpu)?;
            let mut seen = Vec::new();
            for logits in [view_logits(&z, 2.0)?, composed(&z, 2.0)?] {
                let grads = (&logits * &weights)?.sum_all()?.backward()?;
                let gradient = grads.get(&z).map(|g| g.flatten_all()?.to_vec1::<f32>()).transpose()?;
                seen.push([logits.to_vec1::<f32>()?, gradient.unwrap_or_default()].concat());
            }
            assert_eq!(seen[0].len(), 2 * batch * (1 + d));
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
            assert!(seen[0].iter().zip(&seen[1]).all(close), "{batch} {d}: {seen:?}");
        }
        let z = Tensor::cat(&[embeddings(3, 4, 6), embeddings(4, 4, 6)], 0)?.to_dtype(DType::F32)?;
        check_gradients(&[z], GradCheck::default(), |x| Ok(view_logits(&x[0], 0.5)?.sqr()?.sum_all()?))
    }
}
