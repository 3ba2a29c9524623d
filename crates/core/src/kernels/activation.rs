//! Rectified linear unit.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::{is_native, parallel, storage};
use crate::Result;

/// Elements of one unit of work.
const BLOCK: usize = 1 << 15;

/// `max(x, 0)`, any shape. The gradient at 0 is 0, as in PyTorch (Candle's own passes 1).
///
/// # Errors
/// Candle's.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    if is_native(x) {
        return Ok(x.contiguous()?.apply_op1(ReluOp)?);
    }
    composed(x)
}

pub(crate) fn composed(x: &Tensor) -> Result<Tensor> {
    // NaN must stay NaN: the mask multiplies.
    let mask = x.gt(&x.zeros_like()?)?.to_dtype(x.dtype())?;
    Ok((x * mask.detach())?)
}

#[derive(Debug)]
struct ReluOp;

impl CustomOp1 for ReluOp {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = storage::slice(x, layout)?;
        let out = map(x.len(), |start, out| {
            for (y, &x) in out.iter_mut().zip(&x[start..]) {
                // A comparison that NaN passes through.
                y.write(if x <= 0.0 { 0.0 } else { x });
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = storage::with(y, |y| storage::with(dy, |dy| Ok(mask(y, dy))))?;
        Ok(Some(Tensor::from_vec(dx, y.shape(), y.device())?))
    }
}

/// The gradient before a ReLU whose output was `y`.
pub(crate) fn mask(y: &[f32], dy: &[f32]) -> Vec<f32> {
    map(y.len(), |start, out| {
        for ((dx, &y), &dy) in out.iter_mut().zip(&y[start..]).zip(&dy[start..]) {
            dx.write(if y > 0.0 { dy } else { 0.0 });
        }
    })
}

fn map(len: usize, f: impl Fn(usize, &mut [std::mem::MaybeUninit<f32>]) + Send + Sync) -> Vec<f32> {
    let block = |i: usize, out: &parallel::Output| {
        let start = i * BLOCK;
        // SAFETY: blocks are disjoint.
        f(start, unsafe { out.slice(start, BLOCK.min(len - start)) });
    };
    // SAFETY: the blocks cover 0..len, and the two callers above write all of each block.
    unsafe { parallel::build(len, |out| parallel::for_each(len.div_ceil(BLOCK), |i| block(i, out))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn value_and_gradient_agree_with_the_twin_also_at_zero() -> Result<()> {
        let x = Var::new(&[-1.5f32, -0.0, 0.0, 0.25, f32::INFINITY, f32::NAN], &Device::Cpu)?;
        let weights = Tensor::new(&[1f32, 2., 3., 4., 5., 6.], &Device::Cpu)?;
        for f in [relu, composed] {
            let y = f(&x)?;
            let values = y.to_vec1::<f32>()?;
            assert_eq!(values[..4], [0.0, 0.0, 0.0, 0.25]);
            assert!(values[4].is_infinite() && values[5].is_nan());
            let grads = (y.narrow(0, 0, 5)? * weights.narrow(0, 0, 5)?)?.sum_all()?.backward()?;
            let grad = grads.get(&x).expect("gradient").to_vec1::<f32>()?;
            assert_eq!(grad[..5], [0., 0., 0., 4., 5.]);
        }
        Ok(())
    }
}
