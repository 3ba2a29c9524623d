//! One step of CPC on text, as the training loop sees it.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::nn::{Mode, ParamStore};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use super::config::TextConfig;
use super::model::{Codes, TextModel};
use super::ops::Packed;
use super::task::{Contrast, contrast};
use crate::objective::StepScores;

/// CPC on windows of sentences. It has no state beyond its parameters.
pub struct TextCpc {
    config: TextConfig,
    params: ParamStore,
    model: TextModel,
}

impl TextCpc {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: TextConfig, seed: u64, device: &Device) -> Result<Self> {
        let params = ParamStore::new(seed, device);
        let model = TextModel::new(&params.builder(), &config)?;
        Ok(Self { config, params, model })
    }

    /// The networks.
    pub fn model(&self) -> &TextModel {
        &self.model
    }

    /// The settings.
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// The task on a batch of windows `[N, L, W]`.
    ///
    /// # Errors
    /// As [`contrast`].
    pub fn contrast(&self, batch: &Batch, mode: &Mode) -> Result<(Contrast, Codes)> {
        let [x] = batch.views.as_slice() else {
            return Err(Error::shape("cpc", "1 view", &[batch.views.len()]));
        };
        let codes = self.model.codes(x, mode)?;
        let contrast = contrast(&self.model.predictor, &codes.sentences, &codes.contexts, mode)?;
        Ok((contrast, codes))
    }
}

impl Method for TextCpc {
    fn name(&self) -> &str {
        "cpc-text"
    }

    fn views(&self) -> usize {
        1
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, _progress: &Progress) -> Result<StepOutput> {
        let (contrast, codes) = self.contrast(batch, &Mode::train(comm))?;
        let contexts = codes.contexts.detach();
        let last = contexts.narrow(1, contexts.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()?;
        let steps = contrast.steps.len() as f64;
        let mean = |f: fn(&StepScores) -> f64| contrast.steps.iter().map(f).sum::<f64>() / steps;
        let mut terms =
            vec![("accuracy".to_string(), mean(|s| s.accuracy)), ("above".to_string(), mean(|s| s.above))];
        for (i, step) in contrast.steps.iter().enumerate() {
            terms.push((format!("step{}/loss", i + 1), step.loss));
            terms.push((format!("step{}/accuracy", i + 1), step.accuracy));
            terms.push((format!("step{}/above", i + 1), step.above));
        }
        Ok(StepOutput {
            terms,
            features: Some(codes.sentences.detach().mean(1)?),
            ..StepOutput::new(contrast.loss, vec![last])
        })
    }

    /// The vectors of sentences `[N, W]`, or their means over windows `[N, L, W]`: `[N, C]`.
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        let (n, vocabulary) = (x.dim(0)?, self.config.encoder.vocabulary);
        let packed = Arc::new(Packed::from_padded(x, vocabulary)?);
        let sentences = self.model.encoder.forward(&packed, &Mode::eval())?;
        match x.rank() {
            2 => Ok(sentences),
            3 => Ok(sentences.reshape((n, (), self.config.encoder.channels))?.mean(1)?),
            _ => Err(Error::shape("sentences", "[N, W] or [N, L, W]", x.dims())),
        }
    }
}
