//! Losses over a memory bank: NCE with a constant Z, the softmax over drawn rows, and the softmax over all rows (Wu et
//! al., *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*, 2018; CMC and CRD take the same over
//! another view's bank). Equations are that paper's.

use super::{ContrastiveLoss, cross_entropy};
use crate::dist::Comm;
use crate::kernels::{drawn_scores, drawn_sums, is_native};
use crate::tensor::inner_products;
use crate::{Error, Result};
use candle_core::{D, DType, Tensor};

/// Elements of the bank that are copied at a time. `[B, K + 1, D]` as a whole is 0.5 GB for the paper's ImageNet run
/// and 8.6 GB for 65,536 negatives, and a graph would hold it until the backward pass.
const COPIED: usize = 1 << 24;

/// The normalisation constant Z from one batch (section 3.2 of the paper): N times the mean of `exp(v·f/τ)` over all
/// rows of all ranks, own ones included. `features` `[B, D]` must be of unit length already.
///
/// # Errors
/// Shapes that do not fit, a rank that is gone.
pub fn estimate_z(
    features: &Tensor,
    bank: &Tensor,
    rows: &Tensor,
    temperature: f64,
    comm: &Comm,
) -> Result<f32> {
    let mut sums = Vec::new();
    for_each_part(features, bank, rows, temperature, |_, scores| {
        sums.push(scores.exp()?.mean(1)?);
        Ok(())
    })?;
    let mean =
        comm.all_reduce_sum(&Tensor::cat(&sums, 0)?.mean_all()?)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
    Ok(mean / comm.size() as f32 * bank.dim(0)? as f32)
}

/// NCE (eqs. 6 and 7 of the paper): the mean over `features` `[B, D]` of `−log h₀ − Σ_j log(1 − h_j)`, with
/// `h = P / (P + K/N)`, `P = exp(v·f/τ) / Z`. `rows` `[B, K + 1]` says which rows of `bank` `[N, D]` stand against each
/// feature, the own one first. A sum over the noise, not a mean. The bank is constant.
///
/// # Errors
/// Shapes that do not fit.
pub fn nce(
    features: &Tensor,
    bank: &Tensor,
    rows: &Tensor,
    temperature: f64,
    z: f32,
) -> Result<ContrastiveLoss> {
    let (_, columns) = rows.dims2()?;
    let mut sign = vec![1f32; columns];
    sign[0] = -1.0;
    let sign = Tensor::from_vec(sign, (1, columns), features.device())?.to_dtype(features.dtype())?;
    // h = σ(s − ln(Z K / N)), so that neither Z nor an exponential appears in the loss.
    let shift = (f64::from(z) * (columns - 1) as f64 / bank.dim(0)? as f64).ln();
    over_rows(features, bank, rows, temperature, |scores| {
        let x = (scores - shift)?.broadcast_mul(&sign)?;
        let small = x.abs()?.neg()?.exp()?; // e^−|x|
        let softplus = (x.relu()? + (&small + 1.0)?.log()?)?;
        let one = small.ones_like()?;
        let sigmoid = (x.ge(0.0)?.where_cond(&one, &small)? / (&small + 1.0)?)?;
        Ok((softplus.sum(1)?, sigmoid.broadcast_mul(&sign)?))
    })
}

/// The softmax over the drawn rows (InfoNCE): `−log(exp(s₀) / Σ_j exp(s_j))`, the mean over `features`. Arguments as for
/// [`nce`].
///
/// # Errors
/// Shapes that do not fit.
pub fn sampled_softmax(
    features: &Tensor,
    bank: &Tensor,
    rows: &Tensor,
    temperature: f64,
) -> Result<ContrastiveLoss> {
    let (_, columns) = rows.dims2()?;
    let mut own = vec![0f32; columns];
    own[0] = 1.0;
    let own = Tensor::from_vec(own, (1, columns), features.device())?.to_dtype(features.dtype())?;
    over_rows(features, bank, rows, temperature, |scores| {
        let shifted = scores.broadcast_sub(&scores.max_keepdim(1)?)?;
        let exp = shifted.exp()?;
        let sum = exp.sum_keepdim(1)?;
        let loss = (sum.log()?.squeeze(1)? - shifted.narrow(1, 0, 1)?.squeeze(1)?)?;
        Ok((loss, exp.broadcast_div(&sum)?.broadcast_sub(&own)?))
    })
}

/// The non-parametric softmax over the whole bank (eq. 2 of the paper): the cross-entropy of `f·Vᵀ/τ` with each sample's
/// own index.
///
/// # Errors
/// Shapes that do not fit, a sample beyond the bank.
pub fn full_softmax(
    features: &Tensor,
    bank: &Tensor,
    samples: &[u64],
    temperature: f64,
) -> Result<ContrastiveLoss> {
    let logits = (inner_products(features, &bank.detach())? / temperature)?; // [B, N]
    let labels: Vec<u32> = samples.iter().map(|&sample| sample as u32).collect();
    let loss = cross_entropy(&logits, &labels)?;
    let labels = Tensor::from_vec(labels, samples.len(), features.device())?;
    let right = logits.detach().argmax(D::Minus1)?.eq(&labels)?;
    Ok(ContrastiveLoss { loss, accuracy: right.to_dtype(DType::F32)?.mean_all()? })
}

/// The rows that some samples are compared with.
enum Rows {
    /// Those of a bank, read where they lie: our own kernel on the CPU, whose sums are the same on every machine.
    InPlace { bank: Tensor, which: Tensor },
    /// A copy, `[b, K + 1, D]`.
    Copied(Tensor),
}

impl Rows {
    /// `v·f` `[b, K + 1]` of features `[b, D]`.
    fn scores(&self, features: &Tensor) -> Result<Tensor> {
        match self {
            Self::InPlace { bank, which } => drawn_scores(features, bank, which),
            Self::Copied(rows) => Ok(rows.matmul(&features.unsqueeze(2)?.contiguous()?)?.squeeze(2)?),
        }
    }

    /// `Σ_j weight_j v_j` `[b, D]` of weights `[b, K + 1]`.
    fn sums(&self, weights: &Tensor) -> Result<Tensor> {
        match self {
            Self::InPlace { bank, which } => drawn_sums(weights, bank, which),
            Self::Copied(rows) => Ok(weights.unsqueeze(1)?.matmul(rows)?.squeeze(1)?),
        }
    }
}

/// The rows and scores `v·f/τ` `[b, K + 1]` of some samples after the other, or of all at once where rows need no copy. No
/// graph.
fn for_each_part(
    features: &Tensor,
    bank: &Tensor,
    rows: &Tensor,
    temperature: f64,
    mut visit: impl FnMut(&Rows, &Tensor) -> Result<()>,
) -> Result<()> {
    let ((batch, dim), (n, columns)) = (features.dims2()?, rows.dims2()?);
    if n != batch || n == 0 || columns < 2 {
        return Err(Error::shape(
            "bank loss",
            format!("[{batch}, K + 1] for the rows, K at least 1"),
            rows.dims(),
        ));
    }
    let (features, bank) = (features.detach(), bank.detach());
    let in_place = is_native(&features) && is_native(&bank);
    let part = if in_place { batch } else { (COPIED / (columns * dim).max(1)).clamp(1, batch) };
    for first in (0..batch).step_by(part) {
        let len = part.min(batch - first);
        let which = rows.narrow(0, first, len)?;
        let rows = if in_place {
            Rows::InPlace { bank: bank.clone(), which }
        } else {
            Rows::Copied(bank.index_select(&which.flatten_all()?, 0)?.reshape((len, columns, dim))?)
        };
        let scores = (rows.scores(&features.narrow(0, first, len)?)? / temperature)?;
        visit(&rows, &scores)?;
    }
    Ok(())
}

/// The mean over samples of a loss of the scores; `loss` gives it `[b]`, and its derivative by each score `[b, K + 1]`.
///
/// The scores are linear in the features, so the gradient `Σ_j slope_j v_j / τ` is made at once, part by part, and only
/// it is kept.
fn over_rows(
    features: &Tensor,
    bank: &Tensor,
    rows: &Tensor,
    temperature: f64,
    loss: impl Fn(&Tensor) -> Result<(Tensor, Tensor)>,
) -> Result<ContrastiveLoss> {
    let (mut losses, mut gradients, mut right) = (Vec::new(), Vec::new(), Vec::new());
    for_each_part(features, bank, rows, temperature, |rows, scores| {
        let (value, slope) = loss(scores)?;
        losses.push(value);
        gradients.push((rows.sums(&slope)? / temperature)?);
        let noise = scores.narrow(1, 1, scores.dim(1)? - 1)?.max(1)?;
        right.push(scores.narrow(1, 0, 1)?.squeeze(1)?.gt(&noise)?.to_dtype(DType::F32)?);
        Ok(())
    })?;
    let value = Tensor::cat(&losses, 0)?.mean_all()?;
    let gradient = (Tensor::cat(&gradients, 0)? / features.dim(0)? as f64)?;
    // A scalar of that value with that gradient: the product minus itself is exactly 0.
    let product = (features * gradient)?.sum_all()?;
    let loss = ((&product - product.detach())? + value)?;
    Ok(ContrastiveLoss { loss, accuracy: Tensor::cat(&right, 0)?.mean_all()? })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::tensor::l2_normalize;

    /// Copies in parts are an economy, and rows read where they lie another: more samples than fit into one part give
    /// what one graph over everything gives, in double precision (copies) and in single (none).
    #[test]
    fn parts_make_no_difference() -> Result<()> {
        let (n, k, d) = (37usize, 9000usize, 128usize);
        assert!(COPIED / (k + 1) / d < n);
        let make = |count: usize, width: usize, f: f64| -> Result<Tensor> {
            let values: Vec<f64> = (0..count * width).map(|i| (f * (i % 7919) as f64).sin()).collect();
            l2_normalize(&Tensor::from_vec(values, (count, width), &Device::Cpu)?)
        };
        let rows: Vec<u32> = (0..n * (k + 1)).map(|i| (i * i % 50) as u32).collect();
        let rows = Tensor::from_vec(rows, (n, k + 1), &Device::Cpu)?;
        for dtype in [DType::F64, DType::F32] {
            let bank = make(50, d, 0.7)?.to_dtype(dtype)?;
            let features = Var::from_tensor(&make(n, d, 1.3)?.to_dtype(dtype)?)?;
            let out = sampled_softmax(&features, &bank, &rows, 0.1)?;
            let logits = (features.matmul(&bank.t()?)?.gather(&rows, 1)? / 0.1)?;
            let expected = cross_entropy(&logits, &vec![0; n])?;
            let gap = |a: &Tensor, b: &Tensor| -> Result<f64> {
                Ok((a - b)?.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>()?)
            };
            let of_loss = gap(&out.loss, &expected)?;
            assert!(of_loss < 1e-4, "{dtype:?}: {of_loss}");
            let (got, expected) = (out.loss.backward()?, expected.backward()?);
            let (Some(got), Some(expected)) = (got.get(&features), expected.get(&features)) else {
                return Err(Error::data("test", "no gradient"));
            };
            let of_gradient = gap(got, expected)?;
            assert!(of_gradient < 1e-5, "{dtype:?}: {of_gradient}");
        }
        Ok(())
    }
}
