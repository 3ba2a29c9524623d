//! One step of CPC on speech, as the training loop sees it.

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::nn::{Mode, ParamStore};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use super::config::SpeechConfig;
use super::model::{Codes, SpeechModel};
use crate::objective::{Contrast, Sequences, contrast};

/// CPC on windows of speech. It has no state beyond its parameters.
pub struct SpeechCpc {
    config: SpeechConfig,
    params: ParamStore,
    model: SpeechModel,
}

impl SpeechCpc {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: SpeechConfig, seed: u64, device: &Device) -> Result<Self> {
        let params = ParamStore::new(seed, device);
        let model = SpeechModel::new(&params.builder(), &config)?;
        Ok(Self { config, params, model })
    }

    /// The networks.
    pub fn model(&self) -> &SpeechModel {
        &self.model
    }

    /// The settings.
    pub fn config(&self) -> &SpeechConfig {
        &self.config
    }

    /// The task on a batch of windows `[N, 1, S]`; labels are the speakers. `key` names the draws.
    ///
    /// # Errors
    /// As [`contrast`].
    pub fn contrast(&self, batch: &Batch, key: Key, mode: &Mode) -> Result<(Contrast, Codes)> {
        let [x] = batch.views.as_slice() else {
            return Err(Error::shape("cpc", "1 view", &[batch.views.len()]));
        };
        let codes = self.model.codes(x, mode)?;
        let input = Sequences {
            targets: &codes.frames,
            contexts: &codes.contexts,
            names: &batch.indices,
            groups: batch.labels.as_deref(),
            episodes: None,
        };
        let contrast = contrast(&self.config.objective, &self.model.predictor, input, key, mode)?;
        Ok((contrast, codes))
    }
}

/// Frames between two contexts that the collapse instruments look at: neighbours are alike in healthy runs too.
const APART: usize = 8;

impl Method for SpeechCpc {
    fn name(&self) -> &str {
        "cpc-speech"
    }

    fn views(&self) -> usize {
        1
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let key = Key::new(progress.seed, Purpose::Negatives).epoch(progress.step);
        let (contrast, codes) = self.contrast(batch, key, &Mode::train(comm))?;
        let contexts = codes.contexts.detach();
        let (_, frames, width) = contexts.dims3()?;
        let times: Vec<u32> = (0..frames as u32).step_by(APART).collect();
        let times = Tensor::from_vec(times, frames.div_ceil(APART), contexts.device())?;
        let embeddings = contexts.index_select(&times, 1)?.reshape(((), width))?;
        let steps = contrast.steps.len() as f64;
        let mean =
            |f: fn(&crate::objective::StepScores) -> f64| contrast.steps.iter().map(f).sum::<f64>() / steps;
        let mut terms =
            vec![("accuracy".to_string(), mean(|s| s.accuracy)), ("above".to_string(), mean(|s| s.above))];
        for (i, step) in contrast.steps.iter().enumerate() {
            terms.push((format!("step{}/loss", i + 1), step.loss));
            terms.push((format!("step{}/accuracy", i + 1), step.accuracy));
            terms.push((format!("step{}/above", i + 1), step.above));
        }
        Ok(StepOutput {
            terms,
            features: Some(contexts.mean(1)?),
            ..StepOutput::new(contrast.loss, vec![embeddings])
        })
    }

    /// The mean of the contexts over the window: wave forms `[N, 1, S]` to `[N, H]`.
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.model.codes(x, &Mode::eval())?.contexts.mean(1)?)
    }
}
