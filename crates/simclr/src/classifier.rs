//! An encoder with linear logits: what v2 fine-tunes, distils from and distils to.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use contrastive_core::eval::{Features, Metrics, Outcome, Predictions};
use contrastive_core::nn::{BackboneConfig, Encoder, Init, Linear, Mode, Module, ParamStore};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::config::HeadConfig;
use crate::model::{KeptEncoder, norm_kind};
use crate::weights::{self, BACKBONE, HEAD, LOGITS};

/// Settings of a [`Classifier`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// The backbone; any that this workspace trains.
    pub backbone: BackboneConfig,
    /// The head that the backbone was trained with.
    pub head: HeadConfig,
    /// How many of the head's layers stand between backbone and logits (`ft_proj_selector`): 1 for fine-tuning on few
    /// labels, 0 (the backbone alone) on all.
    pub kept_layers: usize,
    /// The number of classes.
    pub classes: usize,
    /// Whether the logits' weights begin at 0 (fine-tuning) instead of N(0, 0.01²). The bias always does.
    pub zero_init_logits: bool,
    /// Batch statistics over all ranks instead of each rank's own.
    pub sync_batch_norm: bool,
}

impl ClassifierConfig {
    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        self.head.check(&format!("{at}.head"))?;
        if self.kept_layers > self.head.layers {
            let reason = format!("must be at most the head's {}, got {}", self.head.layers, self.kept_layers);
            return Err(Error::config(format!("{at}.kept_layers"), reason));
        }
        if self.classes < 2 {
            return Err(Error::config(
                format!("{at}.classes"),
                format!("must be at least 2, got {}", self.classes),
            ));
        }
        Ok(())
    }
}

/// What a [`Classifier`] makes of images.
#[derive(Debug, Clone)]
pub struct Classified {
    /// The backbone's output, `[N, width]`.
    pub features: Tensor,
    /// `[N, classes]`.
    pub logits: Tensor,
}

/// An encoder with linear logits: images `[N, C, H, W]` to `[N, classes]`.
#[derive(Debug)]
pub struct Classifier {
    params: ParamStore,
    encoder: KeptEncoder,
    logits: Linear,
}

impl Classifier {
    /// Fresh parameters drawn from `seed`, under `backbone.*`, `head.*` and `head_supervised.*`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: &ClassifierConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("classifier")?;
        let params = ParamStore::new(seed, device);
        let b = params.builder();
        let kind = norm_kind(config.sync_batch_norm);
        let encoder = KeptEncoder::new(&b, &config.backbone, &config.head, config.kept_layers, kind)?;
        let weight = if config.zero_init_logits { Init::Const(0.0) } else { Init::Normal(0.01) };
        let bias = Some(Init::Const(0.0));
        let logits = Linear::new(&b.pp(LOGITS), encoder.width(), config.classes, weight, bias)?;
        Ok(Self { params, encoder, logits })
    }

    /// A trained one from its tensors; `source` is named in errors.
    ///
    /// # Errors
    /// [`Error::Weights`] listing every missing, unexpected and mis-shaped name.
    pub fn from_tensors(
        config: &ClassifierConfig,
        tensors: &HashMap<String, Tensor>,
        source: &Path,
        device: &Device,
    ) -> Result<Self> {
        let classifier = Self::new(config, 0, device)?;
        classifier.params.load(tensors, source)?;
        Ok(classifier)
    }

    /// A trained one from a file: the last checkpoint of fine-tuning or distillation.
    ///
    /// # Errors
    /// As [`weights::read`] and [`Classifier::from_tensors`].
    pub fn open(config: &ClassifierConfig, path: &Path, device: &Device) -> Result<Self> {
        Self::from_tensors(config, &weights::read(path)?, path, device)
    }

    /// Overwrites the encoder, not the logits, by what pre-training gave ([`weights::read`]). Head layers beyond the kept
    /// ones and a classifier are passed over.
    ///
    /// # Errors
    /// [`Error::Weights`] listing every missing, unexpected and mis-shaped name.
    pub fn load_encoder(&self, tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        let wanted = |name: &str| match name.split_once('.') {
            Some((HEAD, _)) => self.params.get(name).is_some(),
            Some((LOGITS, _)) => false,
            _ => true,
        };
        let mut all: HashMap<String, Tensor> = tensors
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, t)| (name.clone(), t.clone()))
            .collect();
        for (name, tensor) in self.params.tensors_under(LOGITS) {
            all.insert(format!("{LOGITS}.{name}"), tensor.copy()?);
        }
        self.params.load(&all, source)
    }

    /// Parameters and buffers.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The encoder: its features are what the logits stand on.
    pub fn encoder(&self) -> &KeptEncoder {
        &self.encoder
    }

    /// Backbone features and logits.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn classify(&self, x: &Tensor, mode: &Mode) -> Result<Classified> {
        let features = self.encoder.backbone().forward(x, mode)?;
        let logits = self.logits.forward(&self.encoder.forward_head(&features, mode)?, mode)?;
        Ok(Classified { features, logits })
    }

    /// Logits `[N, classes]` in evaluation mode, for [`metrics`] and teachers.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.classify(x, &Mode::eval())?.logits)
    }

    /// Backbone features `[N, width]` in evaluation mode.
    pub(crate) fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.encoder.backbone().forward(x, &Mode::eval())
    }

    pub(crate) fn backbone_tensors(&self) -> Vec<(String, Tensor)> {
        self.params.tensors_under(BACKBONE)
    }

    pub(crate) fn load_backbone(&self, tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        self.params.load_under(BACKBONE, tensors, source)
    }
}

/// `top1`, `top5` (with more than five classes) and `mean-class` of logits over a labelled set, which
/// `experiment::features` gathers with [`Classifier::logits`].
pub fn metrics(logits: &Features) -> Metrics {
    let outcome = |i: usize| Outcome::from_scores(logits.row(i), logits.labels[i]);
    Predictions::new(logits.dim, &logits.labels, (0..logits.n).map(outcome).collect()).metrics()
}

/// The part of rows whose largest logit is `labels`'.
pub(crate) fn accuracy(logits: &Tensor, labels: &[u32]) -> Result<f64> {
    let guesses = logits.detach().argmax(1)?.to_vec1::<u32>()?;
    let right = guesses.iter().zip(labels).filter(|(guess, label)| guess == label).count();
    Ok(right as f64 / labels.len().max(1) as f64)
}
