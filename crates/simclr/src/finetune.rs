//! Fine-tuning of a pre-trained encoder with labels (v2, section 2): linear logits on the backbone and the head's first
//! layer, everything trained. Nothing in it is SimCLR's alone: with `kept_layers = 0` any exported encoder will do.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use contrastive_core::augment::ops::{bicubic_crop, crop, flip, normalize, view};
use contrastive_core::augment::{EvalTransform, Recipe};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::{MethodConfig, OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::loss::cross_entropy;
use contrastive_core::nn::{BackboneConfig, Mode, ParamStore, Stem};
use contrastive_core::optim::LrScaling;
use contrastive_core::train::{Method, Progress, StepOutput, TrainConfig};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, ClassifierConfig, accuracy};
use crate::config::{HeadConfig, Version};
use crate::recipe;
use crate::weights;

const NAME: &str = "simclr-v2-finetune";

/// Settings of [`FineTune`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTuneConfig {
    /// Encoder and logits.
    pub classifier: ClassifierConfig,
    /// What the encoder begins with: a checkpoint of pre-training, or an exported encoder where no head layer is kept.
    /// Random weights (supervised training) where absent.
    pub checkpoint: Option<PathBuf>,
}

impl MethodConfig for FineTuneConfig {
    fn name(&self) -> &'static str {
        NAME
    }

    fn check(&self, at: &str) -> Result<()> {
        self.classifier.check(&format!("{at}.classifier"))
    }

    fn views(&self) -> usize {
        1
    }

    fn backbone(&self) -> BackboneConfig {
        self.classifier.backbone
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        let method = FineTune::new(self, seed, device)?;
        if let Some(path) = &self.checkpoint {
            method.classifier.load_encoder(&weights::read(path)?, path)?;
        }
        Ok(Box::new(method))
    }
}

/// Fine-tuning. It has no state beyond its parameters.
pub struct FineTune {
    classifier: Classifier,
}

impl FineTune {
    /// Fresh parameters drawn from `seed`; give the encoder its own by [`Classifier::load_encoder`].
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: &FineTuneConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        Ok(Self { classifier: Classifier::new(&config.classifier, seed, device)? })
    }

    /// The network.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }
}

impl Method for FineTune {
    fn name(&self) -> &str {
        NAME
    }

    fn views(&self) -> usize {
        1
    }

    fn params(&self) -> &ParamStore {
        self.classifier.params()
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, _progress: &Progress) -> Result<StepOutput> {
        let [x] = batch.views.as_slice() else {
            return Err(Error::shape("fine-tuning", "1 view", &[batch.views.len()]));
        };
        let Some(labels) = batch.labels.as_deref() else {
            return Err(Error::data("fine-tuning", "the data set has no labels"));
        };
        let out = self.classifier.classify(x, &Mode::train(comm))?;
        Ok(StepOutput {
            terms: vec![("accuracy".into(), accuracy(&out.logits, labels)?)],
            features: Some(out.features.detach()),
            ..StepOutput::new(cross_entropy(&out.logits, labels)?, vec![out.features.detach()])
        })
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.classifier.features(x)
    }

    fn backbone(&self) -> Vec<(String, Tensor)> {
        self.classifier.backbone_tensors()
    }

    fn load_backbone(&mut self, tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        self.classifier.load_backbone(tensors, source)
    }
}

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 4] = [
    (
        "imagenet-1pct",
        "v2's command for 1 % of the labels: LARS 0.005 √B, batch 1024, 60 epochs, first head layer kept",
    ),
    ("imagenet-10pct", "the same for 10 % of the labels, 30 epochs"),
    ("imagenet-100pct", "the same for all labels, 30 epochs, no head layer kept"),
    ("smoke", "the embedded sign-language digits"),
];

/// The preset of this name; name the encoder in `method.checkpoint`.
///
/// # Errors
/// [`Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<FineTuneConfig>> {
    match name {
        "imagenet-1pct" => Ok(imagenet(60, 1)),
        "imagenet-10pct" => Ok(imagenet(30, 1)),
        "imagenet-100pct" => Ok(imagenet(30, 0)),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

/// A crop and a mirror image: no colours are changed.
pub(crate) fn crop_and_flip(size: usize) -> Recipe {
    Recipe {
        views: vec![view("view", 1, vec![bicubic_crop(size, [0.08, 1.0]), flip()])],
        ..Recipe::default()
    }
}

/// ResNet-50 on ImageNet with v2's head.
pub(crate) fn imagenet_classifier(kept_layers: usize) -> ClassifierConfig {
    ClassifierConfig {
        backbone: recipe::official_backbone(50, Stem::ImagenetSame),
        head: HeadConfig::official(Version::V2),
        kept_layers,
        classes: 1000,
        zero_init_logits: true,
        sync_batch_norm: true,
    }
}

fn imagenet(epochs: u64, kept_layers: usize) -> RunConfig<FineTuneConfig> {
    RunConfig {
        method: FineTuneConfig { classifier: imagenet_classifier(kept_layers), checkpoint: None },
        train: TrainConfig { epochs, batch_size: 1024, ..TrainConfig::default() },
        optim: OptimConfig { lr_scaling: LrScaling::Sqrt, ..recipe::lars(0.005, 0.0, 0.0) },
        augment: crop_and_flip(224),
        eval: recipe::unit_range(256, 224),
    }
}

/// The small network of the preset `v2-smoke` with ten classes.
pub(crate) fn smoke_classifier() -> ClassifierConfig {
    let pretrained = recipe::narrow(Version::V2, 0.2);
    ClassifierConfig {
        backbone: pretrained.backbone,
        head: pretrained.head,
        kept_layers: 1,
        classes: 10,
        zero_init_logits: true,
        sync_batch_norm: true,
    }
}

/// The tier's budget with crops alone: a mirrored hand can be another sign.
pub(crate) fn smoke_run<M>(method: M) -> RunConfig<M> {
    let (mean, std) = tiers::SMOKE_NORM;
    let ops = vec![crop(20, [0.5, 1.0]), normalize(mean, std)];
    let base = tiers::smoke(method, 1);
    RunConfig {
        augment: Recipe { views: vec![view("view", 1, ops)], ..Recipe::default() },
        // The head's batch norm has seen features of maps of this size.
        eval: EvalTransform { resize: Some(20), ..base.eval },
        ..base
    }
}

fn smoke() -> RunConfig<FineTuneConfig> {
    smoke_run(FineTuneConfig { classifier: smoke_classifier(), checkpoint: None })
}
