//! Swapped prediction: every view predicts the assignments of the others (eq. 1 and 2, and multi-crop).

use candle_core::Tensor;
use contrastive_core::loss::soft_cross_entropy;
use contrastive_core::{Error, Result};

/// The swapped prediction of V views, `scores` `[V·N, K]` with one block of N rows for each view in order, of which the
/// first A have `assignments` `[N, K]`:
///
/// ```text
/// L = 1/A Σ_{i<A} 1/(V−1) Σ_{v≠i} −1/N Σ_n Σ_k qᵢ[n,k] log softmax(scoresᵥ[n]/τ)[k]
/// ```
///
/// The mean over this rank's samples. Assignments are constants: no gradient passes through them.
///
/// # Errors
/// Shapes that do not fit.
pub fn swav_loss(scores: &Tensor, assignments: &[Tensor], temperature: f64) -> Result<Tensor> {
    let Some(first) = assignments.first() else {
        return Err(Error::shape("swav", "at least one view's assignments", &[0]));
    };
    let (n, k) = first.dims2()?;
    let views = scores.dims().first().map_or(0, |rows| rows / n.max(1));
    if views < 2 || assignments.len() > views || scores.dims() != [views * n, k] {
        let expected = format!("[V·{n}, {k}] with V at least 2 and {}", assignments.len());
        return Err(Error::shape("swav", expected, scores.dims()));
    }
    // One cross-entropy with the sum of all targets of a view is the sum of the cross-entropies.
    let target = |view: usize| -> Result<Tensor> {
        let others = assignments.iter().enumerate().filter(|(i, _)| *i != view);
        others.map(|(_, q)| q.detach()).try_fold(first.zeros_like()?, |sum, q| Ok((sum + q)?))
    };
    let targets = Tensor::cat(&(0..views).map(target).collect::<Result<Vec<_>>>()?, 0)?; // [V·N, K]
    let mean = soft_cross_entropy(&(scores / temperature)?, &targets)?;
    Ok((mean * (views as f64 / (assignments.len() * (views - 1)) as f64))?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use contrastive_core::dist::single;

    use super::*;
    use crate::sinkhorn::sinkhorn;

    /// Where all samples have one embedding the assignments are uniform, and so is what predicts them: ln 3000 = 8.006.
    #[test]
    fn the_loss_of_one_embedding_for_all_is_the_logarithm_of_the_prototypes() -> Result<()> {
        let scores = (Tensor::ones((8, 3000), DType::F32, &Device::Cpu)? * 0.3)?;
        let q = sinkhorn(&scores.narrow(0, 0, 4)?, 0.05, 3, &single())?;
        let loss = swav_loss(&scores, &[q.clone(), q], 0.1)?.to_scalar::<f32>()?;
        assert!((loss - 8.0064).abs() < 1e-3, "{loss}");
        Ok(())
    }

    #[test]
    fn faults_are_named() -> Result<()> {
        let table = |rows| Tensor::zeros((rows, 5), DType::F32, &Device::Cpu);
        let q = table(4)?;
        assert!(swav_loss(&table(8)?, std::slice::from_ref(&q), 0.1).is_ok());
        assert!(swav_loss(&table(8)?, &[], 0.1).is_err());
        assert!(swav_loss(&table(4)?, std::slice::from_ref(&q), 0.1).is_err());
        assert!(swav_loss(&table(10)?, &[q.clone(), q], 0.1).is_err());
        Ok(())
    }
}
