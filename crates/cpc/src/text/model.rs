//! The networks: sentence encoder g_enc, context network g_ar and the predictors.

use std::sync::Arc;

use candle_core::Tensor;
use contrastive_core::kernels::{FeatureMap, linear, relu};
use contrastive_core::nn::{BACKBONE, Builder, Init, Mode};
use contrastive_core::{Error, Result};

use super::config::{SentenceConfig, TextConfig};
use super::ops::{Packed, sentence_means, word_windows};
use crate::predictor::Predictor;
use crate::speech::model::Context;
use crate::weights::{CONTEXT, ENCODER, PREDICTOR};

/// g_enc: `z = mean over words of ReLU(conv(word vectors))`, `[S, C]`.
#[derive(Debug)]
pub struct SentenceEncoder {
    table: Tensor,
    weight: Tensor,
    bias: Tensor,
    config: SentenceConfig,
}

impl SentenceEncoder {
    /// Fresh `embedding.weight` `[V, E]` (normal), `conv.weight` `[C, E, k]` and `conv.bias` `[C]` (PyTorch's).
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, config: &SentenceConfig) -> Result<Self> {
        let SentenceConfig { vocabulary, embedding, deviation, kernel, channels } = *config;
        let conv = b.pp("conv");
        let bound = 1.0 / ((embedding * kernel).max(1) as f64).sqrt();
        Ok(Self {
            table: b.pp("embedding").param("weight", (vocabulary, embedding), Init::Normal(deviation))?,
            weight: conv.param("weight", (channels, embedding, kernel), Init::TorchDefault)?,
            bias: conv.param("bias", channels, Init::Uniform(bound))?,
            config: *config,
        })
    }

    /// The settings.
    pub fn config(&self) -> &SentenceConfig {
        &self.config
    }

    /// The word vectors `[V, E]`.
    pub fn table(&self) -> &Tensor {
        &self.table
    }

    /// Vectors `[S, C]` of sentences; zeros for empty ones.
    ///
    /// # Errors
    /// Words that have no vector; no word at all.
    pub fn forward(&self, sentences: &Arc<Packed>, mode: &Mode) -> Result<Tensor> {
        self.forward_with(&mode.weight(&self.table), sentences, mode)
    }

    /// The same with other word vectors `[V', E]`.
    ///
    /// # Errors
    /// As [`SentenceEncoder::forward`]; word vectors of another width.
    pub fn forward_with(&self, table: &Tensor, sentences: &Arc<Packed>, mode: &Mode) -> Result<Tensor> {
        let SentenceConfig { kernel, channels, .. } = self.config;
        let windows = FeatureMap::from_rows(&word_windows(table, sentences, kernel)?)?;
        let weight = mode.weight(&self.weight).reshape((channels, ()))?;
        let y = relu(&linear(&windows, &weight, Some(&mode.weight(&self.bias)))?)?;
        sentence_means(&y.rows()?, sentences)
    }
}

/// What the networks say of a batch.
#[derive(Debug, Clone)]
pub struct Codes {
    /// z: one vector for each sentence, `[N, L, C]`.
    pub sentences: Tensor,
    /// c: what has been read up to each sentence, `[N, L, H]`.
    pub contexts: Tensor,
}

/// Encoder, context network and predictors.
#[derive(Debug)]
pub struct TextModel {
    /// g_enc.
    pub encoder: SentenceEncoder,
    /// g_ar.
    pub context: Context,
    /// W_1 … W_K.
    pub predictor: Predictor,
    width: usize,
}

impl TextModel {
    /// Fresh networks under `backbone.encoder.*`, `backbone.context.*` and `predictor.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(b: &Builder, config: &TextConfig) -> Result<Self> {
        config.check_networks("method")?;
        let backbone = b.pp(BACKBONE);
        let (channels, width) = (config.encoder.channels, config.context.width);
        Ok(Self {
            encoder: SentenceEncoder::new(&backbone.pp(ENCODER), &config.encoder)?,
            context: Context::new(&backbone.pp(CONTEXT), channels, &config.context)?,
            predictor: Predictor::new(&b.pp(PREDICTOR), width, channels, config.steps)?,
            width,
        })
    }

    /// H, the width of contexts.
    pub fn context_width(&self) -> usize {
        self.width
    }

    /// Vectors and contexts of windows `[N, L, W]` of numbers of words, with
    /// [`PADDING`](super::windows::PADDING) behind the last word of each sentence.
    ///
    /// # Errors
    /// Another shape; as [`SentenceEncoder::forward`].
    pub fn codes(&self, x: &Tensor, mode: &Mode) -> Result<Codes> {
        let &[n, length, _] = x.dims() else {
            return Err(Error::shape("sentences", "[N, L, W]", x.dims()));
        };
        let packed = Arc::new(Packed::from_padded(x, self.encoder.config.vocabulary)?);
        let sentences = self.encoder.forward(&packed, mode)?.reshape((n, length, ()))?;
        let contexts = self.contexts(&sentences, mode)?;
        Ok(Codes { sentences, contexts })
    }

    /// The contexts `[N, L, H]` of sentences' vectors `[N, L, C]`.
    ///
    /// # Errors
    /// Another shape.
    pub fn contexts(&self, sentences: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.context.forward(&FeatureMap::from_rows(sentences)?, None, mode)?.0.rows()
    }
}
