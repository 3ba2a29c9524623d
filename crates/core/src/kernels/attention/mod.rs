//! Multi-head self-attention (Vaswani et al. 2017) straight from the fused projection of queries, keys and values.

mod heads;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Result as CandleResult, Shape, Tensor};

use super::map::{FeatureMap, Form, Kept, Native, Slot, token_gradient, token_storage};
use super::memory::Buffer;
use crate::{Error, Result};
use heads::Attention;

/// `softmax(q k^T / sqrt(d)) v` for every head: `qkv` `[N, T, 3 * heads * d]`, whose last axis is ordered as
/// `[3, heads, d]` (timm's), to `[N, T, heads * d]`. Both are maps made by [`FeatureMap::from_rows`].
///
/// # Errors
/// [`Error::Shape`] for another rank or a width that is no multiple of `3 * heads`.
pub fn attention(qkv: &FeatureMap, heads: usize) -> Result<FeatureMap> {
    Ok(FeatureMap(match &qkv.0 {
        Form::Plain(x) => Form::Plain(composed(x, extents(x.dims(), heads)?)?),
        Form::Native(x) => Form::Native(native(x, extents(&x.dims, heads)?)?),
    }))
}

/// The weights that the token `query` gives to all tokens, `[N, heads, T]`, outside any graph; `qkv` as in
/// [`attention`].
///
/// # Errors
/// As [`attention`]; [`Error::Shape`] for a query beyond the tokens.
pub fn attention_map(qkv: &FeatureMap, heads: usize, query: usize) -> Result<Tensor> {
    let within = |e: Attention, dims: &[usize]| {
        if query < e.tokens {
            return Ok(e);
        }
        Err(Error::shape("attention map", format!("more than {query} tokens"), dims))
    };
    match &qkv.0 {
        Form::Plain(x) => {
            let e = within(extents(x.dims(), heads)?, x.dims())?;
            let [q, k, _] = split(&x.detach(), e)?;
            Ok(weights(&q.narrow(2, query, 1)?.contiguous()?, &k, e)?.squeeze(2)?)
        }
        Form::Native(x) => {
            let e = within(extents(&x.dims, heads)?, &x.dims)?;
            let mut out = vec![0f32; e.n * e.heads * e.tokens];
            e.probabilities(&x.values, query, &mut out);
            Ok(Tensor::from_vec(out, (e.n, e.heads, e.tokens), &Device::Cpu)?)
        }
    }
}

fn extents(dims: &[usize], heads: usize) -> Result<Attention> {
    match dims {
        &[n, tokens, all] if heads > 0 && all > 0 && all.is_multiple_of(3 * heads) => {
            Ok(Attention { n, tokens, heads, width: all / (3 * heads) })
        }
        _ => Err(Error::shape("attention", format!("[N, T, 3 * {heads} * d]"), dims)),
    }
}

/// Queries, keys and values, `[N, heads, T, d]` each.
fn split(qkv: &Tensor, e: Attention) -> Result<[Tensor; 3]> {
    let all = qkv.reshape((e.n, e.tokens, 3, e.heads, e.width))?;
    let part = |i: usize| Ok::<_, Error>(all.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous()?);
    Ok([part(0)?, part(1)?, part(2)?])
}

/// `softmax(q k^T / sqrt(d))`, of operations that have a backward pass.
fn weights(q: &Tensor, k: &Tensor, e: Attention) -> Result<Tensor> {
    let scores = (q.matmul(&k.t()?)? * (1.0 / (e.width as f64).sqrt()))?;
    let most = scores.max_keepdim(D::Minus1)?.detach();
    let weights = scores.broadcast_sub(&most)?.exp()?;
    Ok(weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?)
}

fn composed(qkv: &Tensor, e: Attention) -> Result<Tensor> {
    let [q, k, v] = split(qkv, e)?;
    let mixed = weights(&q, &k, e)?.matmul(&v)?;
    Ok(mixed.transpose(1, 2)?.reshape((e.n, e.tokens, e.heads * e.width))?)
}

fn native(qkv: &Native, e: Attention) -> Result<Native> {
    let mut y = Buffer::new(qkv.values.len() / 3);
    let mut lse = Buffer::new(e.n * e.heads * e.tokens);
    e.forward(&qkv.values, &mut y, &mut lse);
    Native::make(vec![e.n, e.tokens, e.heads * e.width], y, |to| {
        let op = AttentionOp { e, qkv: Kept::new(&qkv.values), lse, from: qkv.slot.clone(), to };
        qkv.token.apply_op1(op)
    })
}

#[derive(Debug)]
struct AttentionOp {
    e: Attention,
    qkv: Kept,
    lse: Buffer,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl CustomOp1 for AttentionOp {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, _token: &CpuStorage, _layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(&self, token: &Tensor, _y: &Tensor, _dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let qkv = self.qkv.take()?;
        let dy = self.to.take(qkv.len() / 3);
        let mut d_qkv = Buffer::new(qkv.len());
        self.e.backward(&qkv, &self.lse, &dy, &mut d_qkv);
        self.from.add(d_qkv);
        token_gradient(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_close, assert_same, random};
    use crate::tensor::{GradCheck, check_gradients};

    #[test]
    fn agrees_with_the_twin_and_with_differences() -> Result<()> {
        for (shape, heads) in [([2, 5, 18], 3), ([1, 1, 12], 2), ([2, 37, 96], 1)] {
            let qkv = [random("qkv", &shape)?];
            let e = extents(&shape, heads)?;
            let ours = |t: &[Tensor]| attention(&FeatureMap::from_rows(&t[0])?, heads)?.rows();
            assert_same(&qkv, ours, |t| composed(&t[0], e))?;
            check_gradients(&qkv, GradCheck::default(), ours)?;
        }
        Ok(())
    }

    #[test]
    fn maps_are_rows_of_the_weights() -> Result<()> {
        let qkv = random("qkv", &[2, 9, 30])?;
        let map = FeatureMap::from_rows(&qkv)?;
        for (heads, query) in [(1, 0), (2, 8), (5, 3)] {
            let ours = attention_map(&map, heads, query)?;
            assert!(!ours.track_op());
            let twin = attention_map(&FeatureMap(Form::Plain(qkv.clone())), heads, query)?;
            assert_close(&ours, &twin, "map")?;
            assert_close(&ours.sum(2)?, &ours.sum(2)?.ones_like()?, "sum")?;
        }
        Ok(())
    }

    #[test]
    fn wrong_shapes_are_errors() -> Result<()> {
        let x = FeatureMap::from_rows(&random("qkv", &[2, 4, 18])?)?;
        assert!(attention(&x, 4).is_err() && attention(&x, 0).is_err());
        assert!(attention_map(&x, 3, 4).is_err() && attention_map(&x, 3, 3).is_ok());
        assert!(attention(&FeatureMap::from_rows(&random("qkv", &[4, 18])?)?, 3).is_err());
        Ok(())
    }
}
