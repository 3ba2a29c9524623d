//! Residual addition, with stochastic depth.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::map::{FeatureMap, Form, Native, Slot, token_gradient, token_storage};
use super::memory::Buffer;
use super::parallel::{self, Disjoint};
use super::simd::vectorized;
use crate::{Error, Result};

/// `x + scale * branch`, where `scale` `[N]` has one factor per sample and is 1 if absent. Stochastic depth (Huang et
/// al. 2016) is a scale of 0 for the samples that skip the branch and of `1 / (1 - p)` for the others.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other.
pub fn residual(x: &FeatureMap, branch: &FeatureMap, scale: Option<&[f32]>) -> Result<FeatureMap> {
    let dims = x.dims();
    if branch.dims() != dims {
        return Err(Error::shape("residual branch", format!("{dims:?}"), &branch.dims()));
    }
    let n = dims.first().copied().unwrap_or(0);
    if let Some(scale) = scale
        && scale.len() != n
    {
        return Err(Error::shape("residual scale", format!("[{n}]"), &[scale.len()]));
    }
    match (&x.0, &branch.0) {
        (Form::Native(x), Form::Native(branch)) => Ok(FeatureMap(Form::Native(native(x, branch, scale)?))),
        (Form::Plain(x), Form::Plain(branch)) => Ok(FeatureMap(Form::Plain(composed(x, branch, scale)?))),
        _ => Err(Error::shape("residual branch", "the device and type of the input", &dims)),
    }
}

fn composed(x: &Tensor, branch: &Tensor, scale: Option<&[f32]>) -> Result<Tensor> {
    let Some(scale) = scale else { return Ok((x + branch)?) };
    let mut shape = vec![1; x.rank()];
    shape[0] = scale.len();
    let scale = Tensor::from_slice(scale, shape, x.device())?.to_dtype(x.dtype())?;
    Ok((x + branch.broadcast_mul(&scale)?)?)
}

fn native(x: &Native, branch: &Native, scale: Option<&[f32]>) -> Result<Native> {
    let mut y = Buffer::new(x.values.len());
    let cut = Cut { samples: x.dims.first().copied().unwrap_or(1), len: y.len() };
    cut.for_each(&mut y, |sample, start, y| {
        let factor = scale.map_or(1.0, |scale| scale[sample]);
        add_scaled(&x.values[start..], &branch.values[start..], factor, y);
    });
    Native::make(x.dims.clone(), y, |to| {
        let scale = scale.map(<[f32]>::to_vec);
        let op = ResidualOp { cut, scale, x: x.slot.clone(), branch: branch.slot.clone(), to };
        x.token.apply_op2(&branch.token, op)
    })
}

/// `len` elements of some samples.
#[derive(Debug, Clone, Copy)]
struct Cut {
    samples: usize,
    len: usize,
}

impl Cut {
    /// Calls `f(sample, first element, elements)` for parts of every sample.
    fn for_each(self, out: &mut [f32], f: impl Fn(usize, usize, &mut [f32]) + Send + Sync) {
        const CHUNK: usize = 1 << 14;
        let size = self.len / self.samples.max(1);
        let parts = size.div_ceil(CHUNK);
        let out = Disjoint::new(out);
        parallel::for_each(self.samples * parts, |i| {
            let (sample, first) = (i / parts, i % parts * CHUNK);
            let start = sample * size + first;
            // SAFETY: parts do not overlap.
            f(sample, start, unsafe { out.slice(start, CHUNK.min(size - first)) });
        });
    }
}

#[derive(Debug)]
struct ResidualOp {
    cut: Cut,
    scale: Option<Vec<f32>>,
    x: Arc<Slot>,
    branch: Arc<Slot>,
    to: Arc<Slot>,
}

impl CustomOp2 for ResidualOp {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _: &Layout,
        _branch: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        x: &Tensor,
        branch: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = self.to.take(self.cut.len);
        if branch.track_op() {
            let mut part = Buffer::new(dy.len());
            self.cut.for_each(&mut part, |sample, start, part| {
                scaled(&dy[start..], self.scale.as_ref().map_or(1.0, |scale| scale[sample]), part);
            });
            self.branch.add(part);
        }
        if x.track_op() {
            self.x.add(dy);
        }
        Ok((token_gradient(x)?, token_gradient(branch)?))
    }
}

vectorized! {
    fn add_scaled(x: &[f32], branch: &[f32], factor: f32, y: &mut [f32]) {
        for ((y, x), b) in y.iter_mut().zip(x).zip(branch) {
            *y = x + factor * b;
        }
    }

    fn scaled(x: &[f32], factor: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = factor * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_same, random};
    use crate::tensor::{GradCheck, check_gradients};

    #[test]
    fn agrees_with_the_twin_and_with_differences() -> Result<()> {
        for scale in [None, Some(&[0.0f32, 1.25][..])] {
            let inputs = [random("x", &[2, 3, 5])?, random("branch", &[2, 3, 5])?];
            let ours = |t: &[Tensor]| {
                residual(&FeatureMap::from_rows(&t[0])?, &FeatureMap::from_rows(&t[1])?, scale)?.rows()
            };
            assert_same(&inputs, ours, |t| composed(&t[0], &t[1], scale))?;
            check_gradients(&inputs, GradCheck::default(), ours)?;
        }
        let (x, short) = (random("x", &[2, 3])?, random("y", &[2, 4])?);
        let map = FeatureMap::from_rows(&x)?;
        assert!(residual(&map, &FeatureMap::from_rows(&short)?, None).is_err());
        assert!(residual(&map, &map, Some(&[1.0])).is_err());
        Ok(())
    }
}
