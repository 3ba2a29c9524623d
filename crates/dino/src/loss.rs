//! The cross-entropy between teacher and student (the paper's eq. 3, algorithm 1).

use candle_core::{D, DType, Tensor};
use contrastive_core::loss::soft_cross_entropy;
use contrastive_core::{Error, Result};

/// The teacher's distributions `softmax((t - c) / τ_t)`, outside any graph: `logits` `[M, K]` of the teacher, the
/// `centre` c `[1, K]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn teacher_probabilities(logits: &Tensor, centre: &Tensor, temperature: f64) -> Result<Tensor> {
    let logits = (logits.detach().to_dtype(DType::F32)?.broadcast_sub(&centre.detach())? / temperature)?;
    let exp = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?)
}

/// The mean over the pairs (global view i of the teacher, other view v of the student) and over samples of
/// `-Σ_k p_i log softmax(s_v / τ_s)`.
///
/// `student` `[V N, K]` are the logits of V views in order, the two global ones first; `teacher` `[2 N, K]` are
/// [`teacher_probabilities`] of the two global views. There are `2 V - 2` pairs.
///
/// # Errors
/// Shapes that do not fit, fewer than two views.
pub fn dino_loss(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor> {
    let (rows, k) = student.dims2()?;
    let n = teacher.dim(0)? / 2;
    if n == 0 || teacher.dims() != [2 * n, k] || rows < 2 * n || !rows.is_multiple_of(n) {
        let expected = format!("[2 N, {k}] for the teacher of [V N, {k}], V at least 2");
        return Err(Error::shape("dino", expected, teacher.dims()));
    }
    let views = rows / n;
    let (first, second) = (teacher.narrow(0, 0, n)?, teacher.narrow(0, n, n)?);
    // Every view has the sum of the distributions that it is compared with: a global one the other's, a local one both.
    let mut targets = vec![second.clone(), first.clone()];
    let both = (first + second)?;
    targets.extend(std::iter::repeat_n(both, views - 2));
    // The mean over V N rows, turned into one over 2 V - 2 pairs.
    let loss = soft_cross_entropy(&(student / temperature)?, &Tensor::cat(&targets, 0)?)?;
    Ok((loss * (views as f64 / (2 * views - 2) as f64))?)
}

/// The mean entropy `-Σ p log p` of distributions `[M, K]`, in nats: `ln K` for uniform ones, 0 for certain ones. The
/// loss is this much plus the mean Kullback-Leibler divergence, and a collapse shows in either (the paper's figure 7).
///
/// # Errors
/// Candle's.
pub fn entropy(probabilities: &Tensor) -> Result<Tensor> {
    // p log p is 0 at 0.
    let log = (probabilities + 1e-30)?.log()?;
    Ok((probabilities * log)?.sum(D::Minus1)?.mean_all()?.neg()?)
}
