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
