//! InfoNCE with negatives from a queue or from the batch.

use candle_core::Tensor;

use super::tiled::{Excluded, check_matrix, negatives};
use super::{ContrastiveLoss, paired_logits, prepare, scale};
use crate::dist::{Comm, all_gather_with_grad};
use crate::{Error, Result};

/// InfoNCE against a set of negatives that all queries share: He et al., *Momentum Contrast for Unsupervised Visual
/// Representation Learning* (2020), eq. 1 and algorithm 1.
///
/// Query `i` of `query` `[B, D]` has the positive `keys[i]` (`keys` `[B, D]`) and the negatives `[K, D]` (the queue);
/// the logits would be `[B, 1 + K]` with the positive in column 0. `normalize` scales all rows to unit length first.
/// Gradients flow to whatever is tracked; a detached queue costs nothing in the backward pass. The loss is the mean
/// over the queries; ranks need not talk.
///
/// # Errors
/// Shapes that do not fit or are empty, a temperature that is not positive and finite.
pub fn info_nce_queue(
    query: &Tensor,
    keys: &Tensor,
    queue: &Tensor,
    temperature: f64,
    normalize: bool,
) -> Result<ContrastiveLoss> {
    let scale = scale(temperature)?;
    let (_, d) = check_pairs(query, keys)?;
    let (_, queue_d) = check_matrix("info_nce", queue)?;
    if queue_d != d {
        return Err(Error::shape("info_nce", format!("[K, {d}] for the queue"), queue.dims()));
    }
    let query = prepare(query, normalize)?;
    let positive = paired_logits(&query, &prepare(keys, normalize)?, scale)?;
    let negatives = negatives(&query, &prepare(queue, normalize)?, scale, Excluded::None)?;
    ContrastiveLoss::new(&positive, &negatives)
}

/// Settings of [`info_nce_in_batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InBatch {
    /// Scale rows to unit length first.
    pub normalize: bool,
    /// Whether the keys get gradients, on all ranks. Without, they are constants (a momentum encoder's output) and the
    /// backward pass is not collective.
    pub key_gradient: bool,
}

impl Default for InBatch {
    fn default() -> Self {
        Self { normalize: true, key_gradient: true }
    }
}

/// InfoNCE with the batch's other keys as negatives: van den Oord et al., *Representation Learning with Contrastive
/// Predictive Coding* (2018), eq. 4; with unit rows one half of the loss of CLIP, InvaSpread-like and MoCo v3 models.
///
/// The softmax of query `i` of `query` `[B, D]` runs over the keys `[B, D]` of all ranks, its positive is `keys[i]` of
/// the same rank. Mind the direction: it is the *keys* that compete (CPC: queries are predictions from the context,
/// keys are targets). The loss is the mean over this rank's queries.
///
/// # Errors
/// As [`info_nce_queue`]; a rank that is gone or brings another batch size.
pub fn info_nce_in_batch(
    query: &Tensor,
    keys: &Tensor,
    temperature: f64,
    settings: InBatch,
    comm: &Comm,
) -> Result<ContrastiveLoss> {
    let scale = scale(temperature)?;
    let (batch, _) = check_pairs(query, keys)?;
    let query = prepare(query, settings.normalize)?;
    let keys = if settings.key_gradient { keys.clone() } else { keys.detach() };
    let keys = prepare(&keys, settings.normalize)?;
    let positive = paired_logits(&query, &keys, scale)?;
    let all = all_gather_with_grad(&keys, comm)?;
    let negatives = negatives(&query, &all, scale, Excluded::Diagonal { offset: comm.rank() * batch })?;
    ContrastiveLoss::new(&positive, &negatives)
}

fn check_pairs(query: &Tensor, keys: &Tensor) -> Result<(usize, usize)> {
    let shape = check_matrix("info_nce", query)?;
    if query.dims() != keys.dims() {
        return Err(Error::shape(
            "info_nce",
            format!("{:?} for the keys, as the queries'", query.dims()),
            keys.dims(),
        ));
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::single;
    use crate::loss::tests_support::{assert_close, embeddings, fixture, matrix, permuted, scalar};
    use crate::tensor::{GradCheck, check_gradients};
    use candle_core::{DType, Device, Var};
    use proptest::prelude::*;

    const RAW: InBatch = InBatch { normalize: false, key_gradient: true };

    /// `sin(8i + j + 1)`, not normalised.
    fn sine(rows: std::ops::Range<usize>) -> Tensor {
        table(rows, |i, j| (8.0 * i + j + 1.0).sin())
    }

    /// `cos(0.37 (8i + j) + i² / 2 + 1)`, not normalised.
    fn cosine(rows: std::ops::Range<usize>) -> Tensor {
        table(rows, |i, j| (0.37 * (8.0 * i + j) + 0.5 * i * i + 1.0).cos())
    }

    fn table(rows: std::ops::Range<usize>, f: impl Fn(f64, f64) -> f64) -> Tensor {
        let n = rows.len();
        let data: Vec<f64> =
            rows.flat_map(|i| (0..8).map(move |j| (i, j))).map(|(i, j)| f(i as f64, j as f64)).collect();
        Tensor::from_vec(data, (n, 8), &Device::Cpu).unwrap()
    }

    fn check(what: &str, got: impl Fn(DType) -> Result<ContrastiveLoss>, expected: f64) {
        for dtype in [DType::F32, DType::F64] {
            let loss = scalar(&got(dtype).unwrap().loss);
            assert!((loss - expected).abs() < 2e-6, "{what} {dtype:?}: {loss}, expected {expected}");
        }
    }

    #[test]
    fn reference_values() -> Result<()> {
        let first = prepare(&cosine(0..1), true)?.flatten_all()?.to_vec1::<f64>()?;
        for (got, expected) in first.iter().zip([0.271187, 0.100107, -0.084521, -0.257710]) {
            assert!((got - expected).abs() < 1e-6, "{got}");
        }
        check(
            "MoCo",
            |t| {
                let [q, k, queue] = [sine(0..4), cosine(0..4), cosine(4..10)].map(|x| x.to_dtype(t).unwrap());
                info_nce_queue(&q, &k, &queue, 0.07, true)
            },
            3.209926,
        );
        let cpc = |query: Tensor, key: Tensor| {
            move |t| info_nce_in_batch(&query.to_dtype(t)?, &key.to_dtype(t)?, 1.0, RAW, &single())
        };
        check("CPC, softmax over targets", cpc(cosine(0..4), sine(0..4)), 1.338432);
        check("CPC, softmax over contexts (the transposed bug)", cpc(sine(0..4), cosine(0..4)), 1.325937);
        // InfoNCE on the logits of the InstDisc test: each row has its own three negatives.
        check(
            "InfoNCE per row",
            |t| {
                let rows = [(0usize, 3usize, [0usize, 5, 7]), (1, 9, [2, 2, 15])];
                let mut losses = Vec::new();
                for (i, own, others) in rows {
                    let others: Vec<Tensor> = others.iter().map(|&j| cosine(j..j + 1)).collect();
                    let queue = Tensor::cat(&others, 0)?.to_dtype(t)?;
                    let (q, k) = (sine(i..i + 1).to_dtype(t)?, cosine(own..own + 1).to_dtype(t)?);
                    losses.push(info_nce_queue(&q, &k, &queue, 0.07, true)?);
                }
                let mean = ((&losses[0].loss + &losses[1].loss)? * 0.5)?;
                Ok(ContrastiveLoss { loss: mean, accuracy: losses[0].accuracy.clone() })
            },
            3.969787,
        );
        // The full softmax over a bank of 16 with labels 3 and 9: the negatives are the other 15 rows.
        check(
            "full softmax",
            |t| {
                let mut sum = 0.0;
                for (i, label) in [(0usize, 3usize), (1, 9)] {
                    let queue = Tensor::cat(&[cosine(0..label), cosine(label + 1..16)], 0)?.to_dtype(t)?;
                    let (q, k) = (sine(i..i + 1).to_dtype(t)?, cosine(label..label + 1).to_dtype(t)?);
                    sum += scalar(&info_nce_queue(&q, &k, &queue, 0.07, true)?.loss);
                }
                let loss = Tensor::new(sum / 2.0, &Device::Cpu)?;
                Ok(ContrastiveLoss { accuracy: loss.clone(), loss })
            },
            5.103236,
        );
        Ok(())
    }

    #[test]
    fn matches_torch_with_gradients() -> Result<()> {
        let case = fixture("info_nce.json");
        let temperature = case["temperature"].as_f64().unwrap();
        for (dtype, tolerance) in [(DType::F32, 5e-6), (DType::F64, 1e-10)] {
            let [q, k, queue] =
                ["q", "k", "queue"].map(|name| Var::from_tensor(&matrix(&case[name], dtype)).unwrap());
            let [q, k, queue] = [q.as_tensor(), k.as_tensor(), queue.as_tensor()];
            let out = info_nce_queue(q, k, queue, temperature, true)?;
            assert!((scalar(&out.loss) / case["queue_loss"].as_f64().unwrap() - 1.0).abs() < tolerance);
            let grads = out.loss.backward()?;
            for (x, name) in [(q, "queue_q"), (k, "queue_k"), (queue, "queue_queue")] {
                assert_close(name, grads.get(x).unwrap(), &matrix(&case[name], DType::F64), tolerance);
            }
            let out = info_nce_in_batch(q, k, temperature, InBatch::default(), &single())?;
            assert!((scalar(&out.loss) / case["in_batch_loss"].as_f64().unwrap() - 1.0).abs() < tolerance);
            let grads = out.loss.backward()?;
            for (x, name) in [(q, "in_batch_q"), (k, "in_batch_k")] {
                assert_close(name, grads.get(x).unwrap(), &matrix(&case[name], DType::F64), tolerance);
            }
            // Without the keys' gradient the queries' is the same.
            let constant = InBatch { key_gradient: false, ..InBatch::default() };
            let grads = info_nce_in_batch(q, k, temperature, constant, &single())?.loss.backward()?;
            assert!(grads.get(k).is_none());
            assert_close("query", grads.get(q).unwrap(), &matrix(&case["in_batch_q"], DType::F64), tolerance);
        }
        Ok(())
    }

    #[test]
    fn gradients_match_differences() -> Result<()> {
        for (batch, k, d) in [(1, 1, 2), (3, 40, 5), (33, 7, 3)] {
            let inputs = [embeddings(1, batch, d), embeddings(2, batch, d), embeddings(3, k, d)];
            for normalize in [true, false] {
                check_gradients(&inputs, GradCheck::default(), |x| {
                    Ok((info_nce_queue(&x[0], &x[1], &x[2], 0.5, normalize)?.loss * batch as f64)?)
                })?;
                let settings = InBatch { normalize, key_gradient: true };
                if batch > 1 {
                    check_gradients(&inputs[..2], GradCheck::default(), |x| {
                        let out = info_nce_in_batch(&x[0], &x[1], 0.5, settings, &single())?;
                        Ok((out.loss * batch as f64)?)
                    })?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn accuracy_counts_rows_whose_positive_wins() -> Result<()> {
        let q = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]], &Device::Cpu)?;
        let queue = Tensor::new(&[[1f32, 1.0], [-1.0, 0.2]], &Device::Cpu)?;
        // Row 2 ties with the queue's first row, so it is wrong.
        let out = info_nce_queue(&q, &q, &queue, 0.2, true)?;
        assert_eq!(scalar(&out.accuracy), 0.75);
        let keys = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [1.0, -1.0], [1.0, 1.0]], &Device::Cpu)?;
        let out = info_nce_in_batch(&q, &keys, 0.2, InBatch::default(), &single())?;
        assert_eq!(scalar(&out.accuracy), 0.5);
        Ok(())
    }

    #[test]
    fn faults_are_named() {
        let z = embeddings(1, 4, 3);
        let text = |r: Result<ContrastiveLoss>| r.unwrap_err().to_string();
        assert!(
            text(info_nce_queue(&z, &z, &embeddings(1, 5, 2), 0.1, true)).contains("[K, 3] for the queue")
        );
        assert!(text(info_nce_queue(&z, &embeddings(1, 3, 3), &z, 0.1, true)).contains("[3, 3]"));
        assert!(text(info_nce_queue(&z, &z, &z, f64::NAN, true)).contains("`temperature`"));
        let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(text(info_nce_queue(&z, &z, &empty, 0.1, true)).contains("[0, 3]"));
        assert!(text(info_nce_in_batch(&empty, &empty, 0.1, RAW, &single())).contains("[0, 3]"));
        assert!(text(info_nce_in_batch(&z, &z, -0.1, RAW, &single())).contains("`temperature`"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn order_does_not_matter(batch in 1usize..60, k in 1usize..90, d in 2usize..9, seed in 0u64..1000) {
            let (q, keys) = (embeddings(seed, batch, d), embeddings(seed + 1, batch, d));
            let queue = embeddings(seed + 2, k, d);
            let loss = scalar(&info_nce_queue(&q, &keys, &queue, 0.2, true).unwrap().loss);
            let moved = info_nce_queue(&permuted(&q, 1), &permuted(&keys, 1), &permuted(&queue, 2), 0.2, true);
            prop_assert!((loss - scalar(&moved.unwrap().loss)).abs() < 1e-5 * loss.max(1e-3));
            let one = info_nce_in_batch(&q, &keys, 0.2, InBatch::default(), &single()).unwrap();
            let two = info_nce_in_batch(&permuted(&q, 3), &permuted(&keys, 3), 0.2, InBatch::default(), &single());
            let loss = scalar(&one.loss);
            prop_assert!((loss - scalar(&two.unwrap().loss)).abs() < 1e-5 * loss.max(1e-3));
        }
    }
}
