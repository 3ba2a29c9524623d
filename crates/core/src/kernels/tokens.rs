//! The sequence of a vision transformer: patches with a class token in front and positions added.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Shape, Tensor};

use super::gemm;
use super::map::{FeatureMap, Form, Native, Slot, token_gradient, token_storage};
use super::memory::Buffer;
use super::parallel::{self, Disjoint};
use super::storage;
use crate::{Error, Result};

/// Tokens `[N, 1 + P, D]` from patches `[N, D, h, w]` (`P = h w`, row by row), a class token `cls` `[D]` and positions
/// `[1 + P, D]`: `[cls, patches] + positions` (Dosovitskiy et al. 2021, eq. 1).
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other.
pub fn embed_tokens(patches: &FeatureMap, cls: &Tensor, positions: &Tensor) -> Result<FeatureMap> {
    let dims = patches.dims();
    let &[n, d, h, w] = dims.as_slice() else {
        return Err(Error::shape("patches", "[N, D, h, w]", &dims));
    };
    let tokens = 1 + h * w;
    if cls.dims() != [d] {
        return Err(Error::shape("class token", format!("[{d}]"), cls.dims()));
    }
    if positions.dims() != [tokens, d] {
        return Err(Error::shape("positions", format!("[{tokens}, {d}]"), positions.dims()));
    }
    Ok(FeatureMap(match &patches.0 {
        Form::Plain(x) => Form::Plain(composed(x, cls, positions)?),
        Form::Native(x) => {
            let mut y = Buffer::new(n * tokens * d);
            storage::with(cls, |cls| {
                storage::with(positions, |positions| {
                    let out = Disjoint::new(&mut y);
                    parallel::for_each(n, |i| {
                        // SAFETY: samples do not overlap.
                        let y = unsafe { out.slice(i * tokens * d, tokens * d) };
                        let (first, rest) = y.split_at_mut(d);
                        sum(cls, &positions[..d], first);
                        sum(&x.values[i * (tokens - 1) * d..], &positions[d..], rest);
                    });
                    Ok(())
                })
            })?;
            Form::Native(Native::make(vec![n, tokens, d], y, |to| {
                let op = EmbedOp { n, tokens, d, from: x.slot.clone(), to };
                x.token.apply_op3(cls, positions, op)
            })?)
        }
    }))
}

fn sum(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = a + b;
    }
}

fn composed(patches: &Tensor, cls: &Tensor, positions: &Tensor) -> Result<Tensor> {
    let (n, d, _, _) = patches.dims4()?;
    let x = patches.flatten_from(2)?.transpose(1, 2)?;
    let cls = cls.reshape((1, 1, d))?.broadcast_as((n, 1, d))?;
    Ok(Tensor::cat(&[&cls.contiguous()?, &x.contiguous()?], 1)?.broadcast_add(positions)?)
}

#[derive(Debug)]
struct EmbedOp {
    n: usize,
    tokens: usize,
    d: usize,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl CustomOp3 for EmbedOp {
    fn name(&self) -> &'static str {
        "embed_tokens"
    }

    fn cpu_fwd(
        &self,
        _patches: &CpuStorage,
        _: &Layout,
        _cls: &CpuStorage,
        _: &Layout,
        _positions: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        patches: &Tensor,
        cls: &Tensor,
        positions: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Self { n, tokens, d, .. } = *self;
        let size = tokens * d;
        let dy = self.to.take(n * size);
        // The positions' gradient; its first row is also the class token's.
        let mut sums = vec![0f32; size];
        gemm::column_sums(n, size, &dy, &mut sums);
        if patches.track_op() {
            let mut dx = Buffer::new(n * (size - d));
            for (dx, dy) in dx.chunks_exact_mut((size - d).max(1)).zip(dy.chunks_exact(size)) {
                dx.copy_from_slice(&dy[d..]);
            }
            self.from.add(dx);
        }
        let d_cls = cls.track_op().then(|| Tensor::from_slice(&sums[..d], d, cls.device())).transpose()?;
        let d_positions = positions
            .track_op()
            .then(|| Tensor::from_vec(sums, (tokens, d), positions.device()))
            .transpose()?;
        Ok((token_gradient(patches)?, d_cls, d_positions))
    }
}

/// The token at `place` of every sample: `[N, T, D]` to `[N, D]`, a map made by [`FeatureMap::from_rows`].
///
/// # Errors
/// [`Error::Shape`] for another rank or a place beyond the tokens.
pub fn take_token(x: &FeatureMap, place: usize) -> Result<FeatureMap> {
    let check = |dims: &[usize]| match dims {
        &[n, t, d] if place < t => Ok((n, t, d)),
        _ => Err(Error::shape("token", format!("[N, T, D] with T > {place}"), dims)),
    };
    Ok(FeatureMap(match &x.0 {
        Form::Plain(x) => {
            check(x.dims())?;
            Form::Plain(x.narrow(1, place, 1)?.squeeze(1)?)
        }
        Form::Native(x) => {
            let (n, t, d) = check(&x.dims)?;
            let mut y = Buffer::new(n * d);
            for (y, x) in y.chunks_exact_mut(d).zip(x.values.chunks_exact(t * d)) {
                y.copy_from_slice(&x[place * d..(place + 1) * d]);
            }
            Form::Native(Native::make(vec![n, d], y, |to| {
                x.token.apply_op1(TakeOp { n, t, d, place, from: x.slot.clone(), to })
            })?)
        }
    }))
}

#[derive(Debug)]
struct TakeOp {
    n: usize,
    t: usize,
    d: usize,
    place: usize,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl CustomOp1 for TakeOp {
    fn name(&self) -> &'static str {
        "take_token"
    }

    fn cpu_fwd(&self, _x: &CpuStorage, _layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(&self, token: &Tensor, _y: &Tensor, _dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let Self { n, t, d, place, .. } = *self;
        let dy = self.to.take(n * d);
        self.from.update(|gathered| {
            let mut dx = gathered.unwrap_or_else(|| Buffer::zeros(n * t * d));
            for (dx, dy) in dx.chunks_exact_mut(t * d).zip(dy.chunks_exact(d)) {
                dx[place * d..].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
            }
            dx
        });
        token_gradient(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_same, random};
    use crate::tensor::{GradCheck, check_gradients};

    #[test]
    fn agree_with_the_twin_and_with_differences() -> Result<()> {
        let inputs = [random("patches", &[2, 5, 2, 3])?, random("cls", &[5])?, random("positions", &[7, 5])?];
        let ours = |t: &[Tensor]| embed_tokens(&FeatureMap::new(&t[0])?, &t[1], &t[2])?.rows();
        assert_same(&inputs, ours, |t| composed(&t[0], &t[1], &t[2]))?;
        check_gradients(&inputs, GradCheck::default(), ours)?;
        let x = [random("x", &[2, 3, 4])?];
        for place in [0, 2] {
            let ours = |t: &[Tensor]| take_token(&FeatureMap::from_rows(&t[0])?, place)?.rows();
            assert_same(&x, ours, |t| Ok(t[0].narrow(1, place, 1)?.squeeze(1)?))?;
            check_gradients(&x, GradCheck::default(), ours)?;
        }
        assert!(take_token(&FeatureMap::from_rows(&x[0])?, 3).is_err());
        assert!(embed_tokens(&FeatureMap::new(&inputs[0])?, &inputs[1], &random("p", &[6, 5])?).is_err());
        Ok(())
    }
}
