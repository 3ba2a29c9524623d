//! Sinkhorn-Knopp: soft assignments that use all prototypes alike (eq. 3 to 5 of the paper).

use candle_core::{DType, Tensor};
use contrastive_core::dist::Comm;
use contrastive_core::tensor::inner_products;
use contrastive_core::{Error, Result};

/// `scores` `[B, K]` of this rank's samples and all prototypes to assignments `[B, K]`, without gradient.
///
/// With `Q = exp(scores / ε)` over the samples of all ranks, each of `iterations` rounds first divides every prototype's
/// weight by its sum over the samples, then every sample's by its sum over the prototypes: rows of the result are
/// distributions, and every prototype receives about `B / K` samples. The sum of Q, by which the official code divides
/// first, cancels and is left out.
///
/// Only the two vectors that scale prototypes and samples are iterated, `diag(v) Q diag(u)`; ranks exchange K sums a
/// round.
///
/// # Errors
/// Scores that are no matrix or empty; a rank that is gone or brings another number of prototypes.
pub fn sinkhorn(scores: &Tensor, epsilon: f64, iterations: usize, comm: &Comm) -> Result<Tensor> {
    let (samples, prototypes) = match *scores.dims() {
        [samples, prototypes] if samples > 0 && prototypes > 0 => (samples, prototypes),
        _ => return Err(Error::shape("sinkhorn", "[B, K]", scores.dims())),
    };
    let scores = scores.detach().to_dtype(DType::F32)?.contiguous()?;
    // exp(s / ε) in two factors that cannot overflow: every sample's weights against its best prototype, and what the
    // first round has to know of the samples themselves, against the best of all ranks (a factor that cancels).
    let best = scores.max_keepdim(1)?;
    let overall = comm.all_gather(&best.max(0)?)?.max(0)?;
    let q = (scores.broadcast_sub(&best)? / epsilon)?.exp()?; // [B, K]
    let mut v = (best.broadcast_sub(&overall)? / epsilon)?.exp()?.reshape((1, samples))?;
    let mut u = Tensor::ones((1, prototypes), DType::F32, q.device())?;
    // Samples for each prototype.
    let share = (samples * comm.size()) as f64 / prototypes as f64;
    let by_prototype = q.t()?.contiguous()?; // [K, B]
    for _ in 0..iterations {
        u = (inverse(&comm.all_reduce_sum(&inner_products(&v, &by_prototype)?)?)? * share)?;
        v = inverse(&inner_products(&u, &q)?)?;
    }
    let q = q.broadcast_mul(&u)?;
    // Samples come last, so that each of the assignments is a distribution.
    Ok(q.broadcast_mul(&inverse(&q.sum_keepdim(1)?)?)?)
}

/// Assignments `[B, K]` of a batch with scores `[B, K]` that is assigned together with the queue, whose scores `[Q, K]`
/// stand before the batch's.
///
/// # Errors
/// As [`sinkhorn`].
pub fn assign(
    scores: &Tensor,
    queue: Option<&Tensor>,
    epsilon: f64,
    iterations: usize,
    comm: &Comm,
) -> Result<Tensor> {
    let scores = scores.detach();
    match queue {
        None => sinkhorn(&scores, epsilon, iterations, comm),
        Some(queue) => {
            let all = sinkhorn(&Tensor::cat(&[queue, &scores], 0)?, epsilon, iterations, comm)?;
            Ok(all.narrow(0, queue.dim(0)?, scores.dim(0)?)?.contiguous()?)
        }
    }
}

/// `1 / x`, finite also for a prototype that is out of every sample's reach: then x is less than any weight can be for
/// unit embeddings and ε of 0.03 or more.
fn inverse(x: &Tensor) -> Result<Tensor> {
    const LEAST: f32 = 1e-30;
    Ok(x.maximum(LEAST)?.recip()?)
}

#[cfg(test)]
mod tests {
    use contrastive_core::dist::{run_in_process, single};
    use contrastive_core::rng::{Key, Purpose};

    use super::*;

    /// Scores in [-1, 1], `[rows, columns]`.
    fn scores(rows: usize, columns: usize) -> Result<Tensor> {
        let mut stream = Key::new(1, Purpose::Data).stream();
        let values: Vec<f32> = (0..rows * columns).map(|_| stream.uniform(-1.0, 1.0) as f32).collect();
        Ok(Tensor::from_vec(values, (rows, columns), &candle_core::Device::Cpu)?)
    }

    fn assert_all(x: &Tensor, expected: f32, tolerance: f32) -> Result<()> {
        for value in x.flatten_all()?.to_vec1::<f32>()? {
            assert!((value - expected).abs() <= tolerance, "{value}, expected {expected}");
        }
        Ok(())
    }

    #[test]
    fn samples_are_distributions_and_prototypes_share_them() -> Result<()> {
        for (iterations, tolerance) in [(3, 6.0), (200, 1e-3)] {
            let q = sinkhorn(&scores(60, 5)?, 0.05, iterations, &single())?;
            assert_all(&q.sum(1)?, 1.0, 1e-5)?;
            assert_all(&q.sum(0)?, 12.0, tolerance)?;
        }
        // No round at all: every sample's own softmax.
        let q = sinkhorn(&scores(4, 3)?, 0.05, 0, &single())?;
        let row = (scores(4, 3)?.get(2)? / 0.05)?.exp()?;
        let softmax = row.broadcast_div(&row.sum_all()?)?;
        assert_all(&(q.get(2)? - softmax)?, 0.0, 1e-6)
    }

    #[test]
    fn equal_scores_give_the_uniform_assignment() -> Result<()> {
        assert_all(&sinkhorn(&(scores(6, 8)? * 0.0)?, 0.05, 3, &single())?, 0.125, 1e-7)
    }

    #[test]
    fn samples_stay_distributions_beyond_the_range_of_exp() -> Result<()> {
        for scale in [1e2, 1e4, 1e6] {
            assert_all(&sinkhorn(&(scores(20, 4)? * scale)?, 0.05, 3, &single())?.sum(1)?, 1.0, 1e-5)?;
        }
        Ok(())
    }

    #[test]
    fn ranks_share_the_prototypes() -> Result<()> {
        let whole = scores(12, 5)?;
        let expected = sinkhorn(&whole, 0.05, 3, &single())?;
        let parts =
            run_in_process(3, |comm| sinkhorn(&whole.narrow(0, 4 * comm.rank(), 4)?, 0.05, 3, &comm))?;
        assert_all(&(Tensor::cat(&parts, 0)? - expected)?, 0.0, 1e-6)
    }

    #[test]
    fn the_batch_stands_behind_the_queue() -> Result<()> {
        let (all, comm) = (scores(9, 4)?, single());
        let (queue, batch) = (all.narrow(0, 0, 6)?, all.narrow(0, 6, 3)?);
        let q = assign(&batch, Some(&queue), 0.05, 3, &comm)?;
        let expected = sinkhorn(&all, 0.05, 3, &comm)?.narrow(0, 6, 3)?;
        assert_all(&(&q - expected)?, 0.0, 0.0)?;
        let alone = assign(&batch, None, 0.05, 3, &comm)?;
        assert!((q - alone)?.abs()?.max_all()?.to_scalar::<f32>()? > 1e-2);
        Ok(())
    }
}
