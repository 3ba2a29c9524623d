//! Features and the rows of a bank that were drawn for them. A copy of those rows, `[B, K, D]`, is K times the features:
//! here they are read where they lie. Only values: whoever needs a gradient has it in closed form from these sums.

use candle_core::{DType, Storage, Tensor};
use rayon::prelude::*;

use super::simd::math::dot;
use super::simd::vectorized;
use super::storage;
use crate::{Error, Result};

/// `Σ_d x[b, d] bank[rows[b, j], d]`, `[B, K]`, of features `x` `[B, D]` and the rows `[B, K]` (u32) of `bank` `[N, D]`.
///
/// # Errors
/// Shapes that do not fit, rows beyond the bank, tensors that are not `f32` on the CPU.
pub(crate) fn drawn_scores(x: &Tensor, bank: &Tensor, rows: &Tensor) -> Result<Tensor> {
    for_each_sample(x, bank.dim(1)?, bank, rows, rows.dim(1)?, scores_of)
}

/// `Σ_j weights[b, j] bank[rows[b, j]]`, `[B, D]`: the rows as in [`drawn_scores`], each with its weight `[B, K]`.
///
/// # Errors
/// As [`drawn_scores`].
pub(crate) fn drawn_sums(weights: &Tensor, bank: &Tensor, rows: &Tensor) -> Result<Tensor> {
    for_each_sample(weights, rows.dim(1)?, bank, rows, bank.dim(1)?, sum_of)
}

/// `[B, into]` by `kernel` for each sample: from its row of `x` `[B, from]`, the bank and its `rows`.
fn for_each_sample(
    x: &Tensor,
    from: usize,
    bank: &Tensor,
    rows: &Tensor,
    into: usize,
    kernel: impl Fn(&[f32], &[f32], &[u32], &mut [f32]) + Sync,
) -> Result<Tensor> {
    let ((batch, drawn), (count, _)) = (rows.dims2()?, bank.dims2()?);
    if x.dims() != [batch, from] {
        return Err(Error::shape("drawn rows", format!("[{batch}, {from}]"), x.dims()));
    }
    if rows.dtype() != DType::U32 || rows.elem_count() == 0 || bank.elem_count() == 0 {
        return Err(Error::shape("drawn rows", "u32, at least one, of a bank", rows.dims()));
    }
    let rows = rows.contiguous()?;
    let (rows_storage, layout) = rows.storage_and_layout();
    let (Storage::Cpu(rows_storage), Some((start, end))) = (&*rows_storage, layout.contiguous_offsets())
    else {
        return Err(Error::data("drawn rows", "they are not on the CPU"));
    };
    let rows = &rows_storage.as_slice::<u32>()?[start..end];
    if let Some(row) = rows.iter().find(|&&row| row as usize >= count) {
        return Err(Error::data("drawn rows", format!("row {row} of a bank of {count}")));
    }
    let mut out = vec![0f32; batch * into];
    storage::with(x, |x| {
        storage::with(bank, |bank| {
            let samples = out.par_chunks_mut(into).zip(x.par_chunks(from)).zip(rows.par_chunks(drawn));
            samples.for_each(|((out, x), rows)| kernel(x, bank, rows, out));
            Ok(())
        })
    })?;
    Ok(Tensor::from_vec(out, (batch, into), x.device())?)
}

vectorized! {
    fn scores_of(x: &[f32], bank: &[f32], rows: &[u32], scores: &mut [f32]) {
        for (score, &row) in scores.iter_mut().zip(rows) {
            *score = dot(x, &bank[row as usize * x.len()..][..x.len()]);
        }
    }

    fn sum_of(weights: &[f32], bank: &[f32], rows: &[u32], sum: &mut [f32]) {
        for (&weight, &row) in weights.iter().zip(rows) {
            let row = &bank[row as usize * sum.len()..][..sum.len()];
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += weight * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::kernels::test_support::{assert_close, random};

    /// Odd widths and counts, and the same rows several times.
    #[test]
    fn agrees_with_copied_rows() -> Result<()> {
        for (batch, drawn, count, width) in [(3usize, 5usize, 4usize, 7usize), (1, 1, 1, 1), (6, 33, 20, 40)]
        {
            let rows: Vec<u32> = (0..batch * drawn).map(|i| (i * i % count) as u32).collect();
            let rows = Tensor::from_vec(rows, (batch, drawn), &Device::Cpu)?;
            let bank = random("bank", &[count, width])?;
            let copied = bank.index_select(&rows.flatten_all()?, 0)?.reshape((batch, drawn, width))?;
            let x = random("x", &[batch, width])?;
            let weights = random("weights", &[batch, drawn])?;
            let expected = copied.matmul(&x.unsqueeze(2)?)?.squeeze(2)?;
            assert_close(&drawn_scores(&x, &bank, &rows)?, &expected, "scores")?;
            let expected = weights.unsqueeze(1)?.matmul(&copied)?.squeeze(1)?;
            assert_close(&drawn_sums(&weights, &bank, &rows)?, &expected, "sums")?;
        }
        Ok(())
    }

    #[test]
    fn faults_are_named() -> Result<()> {
        let (x, bank) = (random("x", &[1, 3])?, random("bank", &[2, 3])?);
        let rows = Tensor::new(&[[0u32, 2]], &Device::Cpu)?;
        let text = drawn_scores(&x, &bank, &rows).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("row 2 of a bank of 2"), "{text}");
        assert!(drawn_scores(&bank, &bank, &rows).is_err());
        assert!(drawn_scores(&x, &bank, &rows.to_dtype(DType::F32)?).is_err());
        Ok(())
    }
}
