//! What is told apart: the next sentences from the other sentences of the batch.

use candle_core::{DType, Tensor};
use contrastive_core::dist::all_gather_with_grad;
use contrastive_core::nn::Mode;
use contrastive_core::{Error, Result};

use crate::loss::{info_nce, logits};
use crate::objective::StepScores;
use crate::predictor::Predictor;

/// The task's loss and how every step stands.
#[derive(Debug, Clone)]
pub struct Contrast {
    /// The sum over steps of the mean over predictions: a scalar.
    pub loss: Tensor,
    /// One for each step, from k = 1.
    pub steps: Vec<StepScores>,
}

/// Predicts every step of a batch of B windows at every time whose target is in its window. The candidates of step k are
/// the targets of all its predictions, those of every window and time on all R ranks: R B (L − k) sentences, one of them
/// the true one. The loss is the mean over this rank's predictions.
/// `targets` are the sentences' vectors `[B, L, C]`, `contexts` `[B, L, H]`.
///
/// # Errors
/// Shapes that do not fit; windows too short for the last step; a step with one candidate.
pub fn contrast(predictor: &Predictor, targets: &Tensor, contexts: &Tensor, mode: &Mode) -> Result<Contrast> {
    let (&[b, l, c], &[cb, cl, h]) = (targets.dims(), contexts.dims()) else {
        return Err(Error::shape("CPC", "targets [B, L, C] and contexts [B, L, H]", targets.dims()));
    };
    if (cb, cl) != (b, l) {
        return Err(Error::shape("CPC contexts", format!("[{b}, {l}, H]"), contexts.dims()));
    }
    if predictor.steps() >= l {
        let expected = format!("more sentences than the {} steps", predictor.steps());
        return Err(Error::shape("CPC", expected, targets.dims()));
    }
    let targets = all_gather_with_grad(targets, &mode.comm)?;
    let (all, first) = (targets.dim(0)?, mode.comm.rank() * b);
    let mut total: Option<Tensor> = None;
    let mut steps = Vec::with_capacity(predictor.steps());
    for k in 1..=predictor.steps() {
        let n = b * (l - k);
        let from = contexts.narrow(1, 0, l - k)?.contiguous()?.reshape((n, h))?;
        let candidates = targets.narrow(1, k, l - k)?.contiguous()?.reshape((all * (l - k), c))?;
        let products = logits(&predictor.predict(k, &from, mode)?, &candidates)?;
        let own: Vec<u32> = (0..n).map(|i| (first * (l - k) + i) as u32).collect();
        let scores = info_nce(&products, &own, None)?;
        let loss = f64::from(scores.loss.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        let (accuracy, above) = (scores.accuracy, scores.above);
        steps.push(StepScores { loss, accuracy, above, predictions: n });
        total = Some(match total {
            None => scores.loss,
            Some(total) => (total + scores.loss)?,
        });
    }
    match total {
        Some(loss) => Ok(Contrast { loss, steps }),
        None => Err(Error::config("method.steps", "must be at least 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use contrastive_core::nn::ParamStore;
    use contrastive_core::rng::{Key, Purpose};

    fn random(name: &str, shape: &[usize]) -> Result<Tensor> {
        let mut stream = Key::new(4, Purpose::Data).name(name).stream();
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// Against plain loops over windows and times.
    #[test]
    fn every_target_of_a_step_is_a_candidate() -> Result<()> {
        let (b, l, c, h) = (3, 4, 5, 6);
        let params = ParamStore::new(1, &Device::Cpu);
        let predictor = Predictor::new(&params.builder(), h, c, 3)?;
        let (z, contexts) = (random("z", &[b, l, c])?, random("c", &[b, l, h])?);
        let mode = Mode::eval();
        let got = contrast(&predictor, &z, &contexts, &mode)?;
        let z = z.to_vec3::<f32>()?;
        let mut sum = 0.0;
        for k in 1..=3 {
            let at = predictor.predict(k, &contexts.reshape((b * l, h))?, &mode)?.to_vec2::<f32>()?;
            let product = |window: usize, time: usize, other: usize, target: usize| {
                let pairs = at[window * l + time].iter().zip(&z[other][target]);
                pairs.map(|(p, z)| f64::from(p * z)).sum::<f64>()
            };
            let mut loss = 0.0;
            for (window, time) in (0..b).flat_map(|window| (0..l - k).map(move |time| (window, time))) {
                let candidates = (0..b).flat_map(|other| (k..l).map(move |target| (other, target)));
                let all: f64 = candidates.map(|(o, t)| product(window, time, o, t).exp()).sum();
                loss += all.ln() - product(window, time, window, time + k);
            }
            let loss = loss / (b * (l - k)) as f64;
            let step = got.steps[k - 1];
            assert!((step.loss - loss).abs() < 1e-5, "step {k}: {} {loss}", step.loss);
            assert_eq!(step.predictions, b * (l - k));
            sum += loss;
        }
        assert!((f64::from(got.loss.to_scalar::<f32>()?) - sum).abs() < 1e-5);
        let short = random("z", &[b, 3, c])?;
        assert!(contrast(&predictor, &short, &random("c", &[b, 3, h])?, &mode).is_err());
        assert!(contrast(&predictor, &short, &contexts, &mode).is_err());
        Ok(())
    }
}
