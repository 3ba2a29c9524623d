//! Cross-entropy of a softmax with labels or with target distributions.

use candle_core::{D, Tensor};

use super::tiled::check_matrix;
use crate::{Error, Result};

/// The mean over rows of `-log softmax(logits)[label]`. `logits` `[N, C]`, one label below `C` per row.
///
/// # Errors
/// Empty or wrong shapes; a label out of range, with its place.
pub fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let (n, classes) = check_matrix("cross_entropy", logits)?;
    if labels.len() != n {
        return Err(Error::shape(
            "cross_entropy",
            format!("[{n}] for the labels of {n} rows"),
            &[labels.len()],
        ));
    }
    if let Some((row, label)) = labels.iter().enumerate().find(|&(_, &label)| label as usize >= classes) {
        let reason = format!("label {label} of row {row} is out of range: there are {classes} classes");
        return Err(Error::data("cross_entropy", reason));
    }
    let labels = Tensor::from_slice(labels, (n, 1), logits.device())?;
    Ok(log_softmax(logits)?.gather(&labels, 1)?.mean_all()?.neg()?)
}

/// The mean over rows of `-Σ_c target[c] log softmax(logits)[c]`. `logits` and `target` `[N, C]`; rows of `target`
/// are distributions and get gradients too if they are tracked.
///
/// # Errors
/// Empty or different shapes.
pub fn soft_cross_entropy(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    check_matrix("soft_cross_entropy", logits)?;
    if logits.dims() != target.dims() {
        let expected = format!("{:?} for the target, as the logits'", logits.dims());
        return Err(Error::shape("soft_cross_entropy", expected, target.dims()));
    }
    Ok((log_softmax(logits)? * target)?.sum(D::Minus1)?.mean_all()?.neg()?)
}

/// Shifted by a detached maximum: the shift cancels, so its gradient is 0 and need not be computed.
fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let sum = shifted.exp()?.sum_keepdim(D::Minus1)?;
    Ok(shifted.broadcast_sub(&sum.log()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::tests_support::{assert_close, embeddings, fixture, matrix, scalar};
    use crate::tensor::{GradCheck, check_gradients};
    use candle_core::{DType, Device, Var};

    #[test]
    fn matches_torch_with_gradients() -> Result<()> {
        let case = fixture("cross_entropy.json");
        let labels: Vec<u32> =
            case["labels"].as_array().unwrap().iter().map(|l| l.as_u64().unwrap() as u32).collect();
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-12)] {
            let logits = Var::from_tensor(&matrix(&case["logits"], dtype))?;
            let target = matrix(&case["target"], dtype);
            let hard = cross_entropy(logits.as_tensor(), &labels)?;
            let soft = soft_cross_entropy(logits.as_tensor(), &target)?;
            for (loss, value, gradient) in [(hard, "loss", "gradient"), (soft, "soft_loss", "soft_gradient")]
            {
                let expected = case[value].as_f64().unwrap();
                assert!((scalar(&loss) / expected - 1.0).abs() < tolerance, "{value} {}", scalar(&loss));
                let grads = loss.backward()?;
                let truth = matrix(&case[gradient], DType::F64);
                assert_close(gradient, grads.get(logits.as_tensor()).unwrap(), &truth, tolerance);
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_match_differences_and_large_logits_are_stable() -> Result<()> {
        let logits = embeddings(1, 6, 5);
        check_gradients(std::slice::from_ref(&logits), GradCheck::default(), |x| {
            Ok((cross_entropy(&x[0], &[0, 4, 2, 2, 1, 3])? * 6.0)?)
        })?;
        let target = candle_nn::ops::softmax(&embeddings(2, 6, 5), 1)?;
        check_gradients(&[logits, target], GradCheck::default(), |x| {
            Ok((soft_cross_entropy(&x[0], &x[1])? * 6.0)?)
        })?;
        let large = Var::from_tensor(&Tensor::new(&[[1000f32, -1000.0, 0.0]], &Device::Cpu)?)?;
        let loss = cross_entropy(large.as_tensor(), &[1])?;
        assert_eq!(scalar(&loss), 2000.0);
        let gradient = loss.backward()?.get(large.as_tensor()).unwrap().to_vec2::<f32>()?;
        assert_eq!(gradient, [[1.0, -1.0, 0.0]]);
        Ok(())
    }

    #[test]
    fn faults_are_named() {
        let logits = embeddings(1, 3, 4);
        let text = |r: Result<Tensor>| r.unwrap_err().to_string();
        assert!(
            text(cross_entropy(&logits, &[0, 4, 1]))
                .contains("label 4 of row 1 is out of range: there are 4")
        );
        assert!(text(cross_entropy(&logits, &[0, 1])).contains("[3]"));
        let empty = Tensor::zeros((0, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(text(cross_entropy(&empty, &[])).contains("[0, 4]"));
        assert!(text(soft_cross_entropy(&logits, &embeddings(1, 3, 5))).contains("[3, 5]"));
    }
}
