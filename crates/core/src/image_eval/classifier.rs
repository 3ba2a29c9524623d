//! A backbone with linear classifiers, as the loop sees it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor};

use super::{FeatureKind, ImageProtocol};
use crate::data::Batch;
use crate::dist::Comm;
use crate::experiment::MethodConfig;
use crate::loss::cross_entropy;
use crate::nn::{
    BACKBONE, Backbone, BackboneConfig, BatchNormKind, Init, Linear, Mode, Module, Noise, ParamStore,
};
use crate::optim::ParamGroups;
use crate::train::{Method, Progress, StepOutput};
use crate::{Error, Result};

/// How a classifier's weight begins. Its bias begins at 0, but for PyTorch's.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadInit {
    /// PyTorch's `Linear`: weight and bias uniform in `±1/sqrt(width)`.
    Torch,
    /// Normal with this standard deviation (MoCo: 0.01).
    Normal(f64),
    /// Haiku's `Linear`: normal with deviation `1/sqrt(width)`, cut at two of them.
    Haiku,
}

/// Settings of a [`Classifier`].
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Which protocol this is, or was before settings were changed.
    pub protocol: ImageProtocol,
    /// [`super::Subject::digest`] of the encoder, so that runs on different weights do not pass for one.
    pub encoder: String,
    /// Classes.
    pub classes: usize,
    /// Side of the training views in pixels.
    pub image: usize,
    /// Whether the backbone stays as it is, in evaluation mode. Otherwise it trains too, with batch statistics.
    pub frozen: bool,
    /// How the classifiers begin.
    pub init: HeadInit,
    /// Factors of the learning rate for the classifiers. With several, each feature gets a classifier for each factor,
    /// trained side by side: a sweep in one pass, on a frozen backbone only.
    pub rates: Vec<f64>,
    /// What the classifiers see.
    pub features: FeatureKind,
    /// The backbone.
    pub backbone: BackboneConfig,
}

/// Where a parameter of the `i`-th classifier stands in the store.
const HEAD: &str = "classifier";

impl MethodConfig for ClassifierConfig {
    fn name(&self) -> &'static str {
        self.protocol.name()
    }

    fn check(&self, at: &str) -> Result<()> {
        let refuse = |key: &str, reason: String| Err(Error::config(format!("{at}.{key}"), reason));
        self.backbone.check(&format!("{at}.backbone"))?;
        self.features.check(&self.backbone, &format!("{at}.features"))?;
        if self.classes < 2 {
            return refuse("classes", format!("must be at least 2, got {}", self.classes));
        }
        if !(1..=8192).contains(&self.image) {
            return refuse("image", format!("{} is not in 1..=8192", self.image));
        }
        if self.rates.is_empty() || !self.rates.iter().all(|r| *r > 0.0 && r.is_finite()) {
            return refuse("rates", format!("must be positive numbers, at least one; got {:?}", self.rates));
        }
        if !self.frozen && (self.rates.len() > 1 || !self.features.names().is_empty()) {
            return refuse("frozen", "must be true for several classifiers on one backbone".to_string());
        }
        match self.init {
            HeadInit::Normal(std) if !(std >= 0.0 && std.is_finite()) => {
                refuse("init.normal", format!("must be at least 0, got {std}"))
            }
            _ => Ok(()),
        }
    }

    fn views(&self) -> usize {
        1
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn groups(&self) -> ParamGroups {
        let count = self.rates.len();
        self.rates.iter().enumerate().fold(ParamGroups::new(), |groups, (place, &rate)| {
            groups.lr_multiplier(rate, move |name, _| {
                let index = name.strip_prefix("classifier.").and_then(|rest| rest.split('.').next());
                index.and_then(|i| i.parse::<usize>().ok()).is_some_and(|i| i % count == place)
            })
        })
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(Classifier::new(self.clone(), seed, device)?))
    }
}

/// A backbone, frozen or trained, under linear classifiers with cross-entropy.
///
/// A frozen backbone is no parameter: it is passed without a graph in evaluation mode and travels with the checkpoints
/// as state.
#[derive(Debug)]
pub struct Classifier {
    config: ClassifierConfig,
    /// What is trained.
    params: ParamStore,
    /// What holds the backbone: the same store, unless it is frozen.
    trunk: ParamStore,
    backbone: Backbone,
    /// For every feature one head for each rate.
    heads: Vec<Linear>,
}

impl Classifier {
    /// With random weights; see [`Method::load_backbone`].
    ///
    /// # Errors
    /// What [`MethodConfig::check`] refuses.
    pub fn new(config: ClassifierConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let trunk = if config.frozen { ParamStore::new(seed, device) } else { params.clone() };
        let shape = config.backbone.with_norm(BatchNormKind::Sync);
        let backbone = Backbone::new(&trunk.builder().pp(BACKBONE), &shape)?;
        // The width of a stage follows from the size of the images.
        let channels = config.backbone.in_channels();
        let blank = Tensor::zeros((1, channels, config.image, config.image), DType::F32, device)?;
        let mut heads = Vec::new();
        for feature in config.features.of(&backbone, &blank, &Mode::eval())? {
            let width = feature.dim(1)?;
            let (weight, bias) = match config.init {
                HeadInit::Torch => (Init::TorchDefault, Init::TorchDefault),
                HeadInit::Normal(std) => (Init::Normal(std), Init::Const(0.0)),
                HeadInit::Haiku => (Init::TruncatedNormal(1.0 / (width as f64).sqrt()), Init::Const(0.0)),
            };
            for _ in &config.rates {
                let b = params.builder().pp(HEAD).pp(heads.len());
                heads.push(Linear::new(&b, width, config.classes, weight, Some(bias))?);
            }
        }
        Ok(Self { config, params, trunk, backbone, heads })
    }

    /// The settings.
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// Scores `[N, classes]` of images `[N, C, H, W]` in evaluation mode: for every feature those of each rate.
    ///
    /// # Errors
    /// Images that the backbone cannot take.
    pub fn scores(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let mode = Mode::eval();
        self.classify(&self.config.features.of(&self.backbone, x, &mode)?, &mode)
    }

    fn classify(&self, features: &[Tensor], mode: &Mode) -> Result<Vec<Tensor>> {
        let rates = self.config.rates.len();
        self.heads.iter().enumerate().map(|(i, head)| head.forward(&features[i / rates], mode)).collect()
    }

    /// Frozen features, or those of a training pass.
    fn training_features(&self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<Vec<Tensor>> {
        let [x] = batch.views.as_slice() else {
            return Err(Error::shape("classifier", "1 view", &[batch.views.len()]));
        };
        if self.config.frozen {
            let features = self.config.features.of(&self.backbone, x, &Mode::eval())?;
            return Ok(features.iter().map(Tensor::detach).collect());
        }
        let rows = batch.indices.iter().map(|&sample| (sample, 0)).collect();
        let noise = Noise { seed: progress.seed, step: progress.step, rows };
        self.config.features.of(&self.backbone, x, &Mode::train(comm).with_noise(noise))
    }
}

impl Method for Classifier {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        1
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let labels = batch
            .labels
            .as_deref()
            .ok_or_else(|| Error::data(self.name(), "the training set has no labels"))?;
        let features = self.training_features(batch, comm, progress)?;
        let scores = self.classify(&features, &Mode::train(comm))?;
        // Classifiers on frozen features share nothing: the sum gives each its own gradient.
        let mut loss: Option<Tensor> = None;
        for scores in &scores {
            let own = cross_entropy(scores, labels)?;
            loss = Some(match loss {
                Some(sum) => (sum + own)?,
                None => own,
            });
        }
        let loss = loss.ok_or_else(|| Error::config("method.rates", "at least one is needed"))?;
        let last = scores.last().map_or(Ok(0.0), |scores| accuracy(scores, labels))?;
        Ok(StepOutput { terms: vec![("top1".into(), last)], ..StepOutput::new(loss, Vec::new()) })
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.backbone.forward(x, &Mode::eval())
    }

    fn backbone(&self) -> Vec<(String, Tensor)> {
        self.trunk.tensors_under(BACKBONE)
    }

    fn load_backbone(&mut self, tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        self.trunk.load_under(BACKBONE, tensors, source)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(if self.config.frozen { self.trunk.tensors() } else { Vec::new() })
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        if self.config.frozen { self.trunk.load(state, "checkpoint") } else { Ok(()) }
    }
}

/// The fraction of rows whose largest score is the label's.
fn accuracy(scores: &Tensor, labels: &[u32]) -> Result<f64> {
    let said = scores.detach().argmax(D::Minus1)?.to_vec1::<u32>()?;
    let hits = said.iter().zip(labels).filter(|(said, label)| said == label).count();
    Ok(hits as f64 / labels.len().max(1) as f64)
}
