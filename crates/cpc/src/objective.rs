//! The pretext task over a batch of sequences: from contexts and targets to the loss.

use candle_core::Tensor;
use contrastive_core::nn::Mode;
use contrastive_core::rng::Key;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::loss::{gathered, info_nce, logits};
use crate::negatives::{Anchor, Candidates, Frames, NegativesConfig};
use crate::predictor::Predictor;

/// At which times predictions are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// At every time whose target is in the sequence.
    All,
    /// At one time for the whole batch, drawn in every step, with all K targets in the sequence (Lai's implementation).
    One,
}

/// Inner products of predictions and targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Product {
    /// Sums over the width, as in the paper.
    Sum,
    /// Means over the width (CPC_audio): the same as a temperature of D.
    Mean,
}

/// The settings of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// K, the steps into the future that are predicted.
    pub steps: usize,
    /// Where negatives come from.
    pub negatives: NegativesConfig,
    /// At which times predictions are made.
    pub positions: Positions,
    /// How predictions and targets are multiplied.
    pub product: Product,
}

impl ObjectiveConfig {
    /// Checks the ranges for sequences of `length`. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self, at: &str, length: usize) -> Result<()> {
        if self.steps == 0 || self.steps >= length {
            let reason = format!("must be from 1 to {} for sequences of {length}", length.saturating_sub(1));
            return Err(Error::config(format!("{at}.steps"), reason));
        }
        self.negatives.check(&format!("{at}.negatives"))
    }
}

/// What the task is set on.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// Targets `[B, L, D]`.
    pub targets: &'a Tensor,
    /// Contexts `[B, L, H]`, those at `t` from what is seen up to `t`.
    pub contexts: &'a Tensor,
    /// The sample that each sequence is from: the name of its draws.
    pub names: &'a [u64],
    /// The group (speaker) of each sequence, where a scheme asks for it.
    pub groups: Option<&'a [u32]>,
    /// The number of the episode that `(b, t)` belongs to, at `b L + t`: nothing is predicted across its end.
    pub episodes: Option<&'a [u32]>,
}

/// How one step is predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepScores {
    /// Mean InfoNCE in nats.
    pub loss: f64,
    /// See [`crate::loss::Scores::accuracy`].
    pub accuracy: f64,
    /// See [`crate::loss::Scores::above`].
    pub above: f64,
    /// Predictions.
    pub predictions: usize,
}

/// The task's loss and how every step stands.
#[derive(Debug, Clone)]
pub struct Contrast {
    /// The mean over steps of the mean over predictions: a scalar.
    pub loss: Tensor,
    /// One for each step, from k = 1.
    pub steps: Vec<StepScores>,
}

/// Predicts all steps of a batch. `key` names the run and the optimiser step.
///
/// # Errors
/// Shapes that do not fit, negatives that a scheme cannot find, a step without any prediction.
pub fn contrast(
    config: &ObjectiveConfig,
    predictor: &Predictor,
    input: Sequences<'_>,
    key: Key,
    mode: &Mode,
) -> Result<Contrast> {
    let Sequences { targets, contexts, names, groups, episodes } = input;
    let (&[b, l, d], &[cb, cl, h]) = (targets.dims(), contexts.dims()) else {
        return Err(Error::shape("CPC", "targets [B, L, D] and contexts [B, L, H]", targets.dims()));
    };
    if (cb, cl) != (b, l) || names.len() != b {
        return Err(Error::shape(
            "CPC contexts",
            format!("[{b}, {l}, H] of {b} named sequences"),
            contexts.dims(),
        ));
    }
    if let Some(episodes) = episodes
        && episodes.len() != b * l
    {
        return Err(Error::shape("CPC episodes", format!("{b} x {l}"), &[episodes.len()]));
    }
    config.check("objective", l)?;
    let frames = Frames { length: l, names, groups };
    let (targets, contexts) = (targets.reshape((b * l, d))?, contexts.reshape((b * l, h))?);
    let times = times(config, l, key);
    let mut total: Option<Tensor> = None;
    let mut steps = Vec::with_capacity(config.steps);
    for k in 1..=config.steps {
        let within = |a: &Anchor| {
            let at = a.sequence * l + a.time;
            episodes.is_none_or(|episodes| episodes[at] == episodes[at + k])
        };
        let all = (0..b).flat_map(|sequence| times(k).map(move |time| Anchor { sequence, time }));
        let anchors: Vec<Anchor> = all.filter(within).collect();
        if anchors.is_empty() {
            return Err(Error::data(
                "CPC",
                format!("no sequence has two times {k} steps apart in one episode"),
            ));
        }
        let rows: Vec<u32> = anchors.iter().map(|a| (a.sequence * l + a.time) as u32).collect();
        let rows = Tensor::from_vec(rows, anchors.len(), contexts.device())?;
        let predictions = predictor.predict(k, &contexts.index_select(&rows, 0)?, mode)?;
        let scale = |x: Tensor| match config.product {
            Product::Sum => Ok(x),
            Product::Mean => x * (1.0 / d as f64),
        };
        let scores = match Candidates::new(&config.negatives, &frames, &anchors, k, key)? {
            Candidates::Pool { positive, excluded } => {
                info_nce(&scale(logits(&predictions, &targets)?)?, &positive, excluded.as_deref())?
            }
            Candidates::Drawn { index, .. } => {
                info_nce(&scale(gathered(&predictions, &targets, &index)?)?, &vec![0; anchors.len()], None)?
            }
        };
        let loss = f64::from(scores.loss.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?);
        let (accuracy, above) = (scores.accuracy, scores.above);
        steps.push(StepScores { loss, accuracy, above, predictions: anchors.len() });
        total = Some(match total {
            None => scores.loss,
            Some(total) => (total + scores.loss)?,
        });
    }
    match total {
        Some(total) => Ok(Contrast { loss: (total * (1.0 / config.steps as f64))?, steps }),
        None => Err(Error::config("objective.steps", "must be at least 1")),
    }
}

/// The times at which step `k` is predicted.
fn times(config: &ObjectiveConfig, length: usize, key: Key) -> impl Fn(usize) -> std::ops::Range<usize> {
    let one = match config.positions {
        Positions::All => None,
        Positions::One => {
            let mut stream = key.name("position").stream();
            Some(stream.below((length - config.steps) as u64) as usize)
        }
    };
    move |k| match one {
        Some(time) => time..time + 1,
        None => 0..length - k,
    }
}

#[cfg(test)]
mod tests;
