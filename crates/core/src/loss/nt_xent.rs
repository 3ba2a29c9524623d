//! The normalised temperature-scaled cross-entropy of SimCLR.

use candle_core::Tensor;

use super::tiled::{Excluded, check_matrix, negatives, symmetric_negatives};
use super::view_pairs::view_logits;
use super::{ContrastiveLoss, prepare, scale};
use crate::dist::{Comm, all_gather_with_grad};
use crate::{Error, Result};

/// NT-Xent: Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations* (2020), eq. 1 and
/// algorithm 1, averaged over the 2N terms.
///
/// `z1` and `z2` `[B, D]` are the embeddings of two views of the same `B` samples; row `i` of one is the positive of
/// row `i` of the other, and all other rows of both views on all ranks are negatives. `normalize` scales rows to unit
/// length first (the paper's loss; without it the logits are plain dot products). The loss is the mean over this
/// rank's 2B rows; with several ranks the backward pass is collective (see [`crate::dist`]).
///
/// A batch of one sample on one rank has no negatives: its loss and gradients are 0.
///
/// On the CPU memory grows with the number of rows, not with its square.
///
/// # Errors
/// Views of different or empty shapes, a temperature that is not positive and finite, a rank that is gone or brings
/// another batch size.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use contrastive_core::{dist, loss};
///
/// let z1 = Tensor::new(&[[1f32, 0.0], [0.0, 1.0]], &Device::Cpu)?;
/// let out = loss::nt_xent(&z1, &z1, 0.5, true, &dist::single())?;
/// let expected = (1.0 + 2.0 * (-2f32).exp()).ln(); // one positive at 1, two negatives at 0
/// assert!((out.loss.to_scalar::<f32>()? - expected).abs() < 1e-6);
/// assert_eq!(out.accuracy.to_scalar::<f32>()?, 1.0);
/// # Ok::<(), contrastive_core::Error>(())
/// ```
pub fn nt_xent(
    z1: &Tensor,
    z2: &Tensor,
    temperature: f64,
    normalize: bool,
    comm: &Comm,
) -> Result<ContrastiveLoss> {
    let scale = scale(temperature)?;
    let (batch, _) = check_matrix("nt_xent", z1)?;
    if z1.dims() != z2.dims() {
        return Err(Error::shape("nt_xent", format!("{:?} as the first view's", z1.dims()), z2.dims()));
    }
    let own = prepare(&Tensor::cat(&[z1, z2], 0)?, normalize)?;
    let positive = view_logits(&own, scale)?;
    let excluded = Excluded::Views { offset: comm.rank() * 2 * batch, batch };
    let negatives = if comm.size() == 1 {
        symmetric_negatives(&own, scale, excluded)?
    } else {
        negatives(&own, &all_gather_with_grad(&own, comm)?, scale, excluded)?
    };
    ContrastiveLoss::new(&positive, &negatives)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::single;
    use crate::loss::tests_support::{assert_close, embeddings, fixture, matrix, permuted, scalar};
    use crate::tensor::{GradCheck, check_gradients};
    use candle_core::{DType, Var};
    use proptest::prelude::*;

    fn value(z1: &Tensor, z2: &Tensor, temperature: f64) -> f64 {
        scalar(&nt_xent(z1, z2, temperature, true, &single()).unwrap().loss)
    }

    #[test]
    fn matches_lightly_with_gradients() -> Result<()> {
        let cases = fixture("nt_xent.json");
        for case in cases.as_array().unwrap() {
            let temperature = case["temperature"].as_f64().unwrap();
            for dtype in [DType::F32, DType::F64] {
                let z1 = Var::from_tensor(&matrix(&case["z1"], dtype))?;
                let z2 = Var::from_tensor(&matrix(&case["z2"], dtype))?;
                let out = nt_xent(z1.as_tensor(), z2.as_tensor(), temperature, true, &single())?;
                let expected = case["loss"].as_f64().unwrap();
                let tolerance = if dtype == DType::F32 { 3e-6 } else { 1e-11 };
                assert!(
                    (scalar(&out.loss) / expected - 1.0).abs() < tolerance,
                    "{dtype:?}: {}",
                    scalar(&out.loss)
                );
                let accuracy = case["accuracy"].as_f64().unwrap();
                assert!((scalar(&out.accuracy) - accuracy).abs() < 1e-6, "{}", scalar(&out.accuracy));
                let grads = out.loss.backward()?;
                for (z, name) in [(&z1, "gradient1"), (&z2, "gradient2")] {
                    let truth = matrix(&case[name], DType::F64);
                    assert_close(name, grads.get(z.as_tensor()).unwrap(), &truth, 2.0 * tolerance);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_match_differences() -> Result<()> {
        for (batch, d, temperature) in [(2, 3, 0.5), (5, 1, 0.5), (40, 6, 0.2), (70, 4, 1.0)] {
            for normalize in [true, false] {
                let views = [embeddings(1, batch, d), embeddings(2, batch, d)];
                if normalize && d == 1 {
                    continue; // ±1 everywhere: the gradient is 0
                }
                check_gradients(&views, GradCheck::default(), |z| {
                    // Scaled so that gradients are of order one.
                    Ok((nt_xent(&z[0], &z[1], temperature, normalize, &single())?.loss * batch as f64)?)
                })?;
            }
        }
        Ok(())
    }

    #[test]
    fn extremes_stay_finite() -> Result<()> {
        let one = Var::from_tensor(&embeddings(1, 1, 4))?;
        let out = nt_xent(one.as_tensor(), &embeddings(2, 1, 4), 0.1, true, &single())?;
        assert_eq!(scalar(&out.loss), 0.0);
        let grads = out.loss.backward()?;
        assert_eq!(scalar(&grads.get(one.as_tensor()).unwrap().abs()?.sum_all()?), 0.0);
        // Collapse: every similarity is 1, the loss is log(2N - 1) and nothing is ranked first.
        let same = Tensor::ones((8, 3), DType::F32, &candle_core::Device::Cpu)?;
        let out = nt_xent(&same, &same, 0.01, true, &single())?;
        assert!((scalar(&out.loss) - 15f64.ln()).abs() < 1e-5, "{}", scalar(&out.loss));
        // A tiny temperature, all-zero rows.
        let zero = Var::from_tensor(&Tensor::zeros((8, 3), DType::F32, &candle_core::Device::Cpu)?)?;
        let out = nt_xent(zero.as_tensor(), &embeddings(3, 8, 3), 1e-3, true, &single())?;
        let gradient = out.loss.backward()?.get(zero.as_tensor()).unwrap().sum_all()?;
        assert!(scalar(&out.loss).is_finite() && scalar(&gradient).is_finite());
        Ok(())
    }

    #[test]
    fn faults_are_named() {
        let z = embeddings(1, 4, 3);
        for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-320] {
            let error = nt_xent(&z, &z, temperature, true, &single()).unwrap_err().to_string();
            assert!(error.contains("`temperature`"), "{error}");
        }
        let error = nt_xent(&z, &embeddings(1, 5, 3), 0.5, true, &single()).unwrap_err().to_string();
        assert!(error.contains("[4, 3]") && error.contains("[5, 3]"), "{error}");
        for dims in [&[0usize, 3][..], &[3, 0], &[3]] {
            let z = Tensor::zeros(dims, DType::F32, &candle_core::Device::Cpu).unwrap();
            assert!(matches!(nt_xent(&z, &z, 0.5, true, &single()), Err(Error::Shape { .. })));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn order_of_samples_and_views_does_not_matter(batch in 1usize..90, d in 2usize..9, seed in 0u64..1000) {
            let (z1, z2) = (embeddings(seed, batch, d), embeddings(seed + 1, batch, d));
            let loss = value(&z1, &z2, 0.3);
            let tolerance = 1e-5 * loss.max(1e-3);
            prop_assert!((loss - value(&z2, &z1, 0.3)).abs() < tolerance);
            let shuffled = value(&permuted(&z1, seed), &permuted(&z2, seed), 0.3);
            prop_assert!((loss - shuffled).abs() < tolerance);
            // The length of a row does not matter either.
            let longer = value(&(&z1 * 3.0).unwrap(), &z2, 0.3);
            prop_assert!((loss - longer).abs() < tolerance);
        }
    }
}
