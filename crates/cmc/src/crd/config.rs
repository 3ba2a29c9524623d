//! Settings of distillation.

use candle_core::Device;
use contrastive_core::Result;
use contrastive_core::augment::ops::{flip, normalize, view};
use contrastive_core::augment::{EvalTransform, Recipe};
use contrastive_core::experiment::{MethodConfig, OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::nn::{BackboneConfig, ResNetConfig};
use contrastive_core::optim::{LrScaling, OptimizerConfig, Schedule, SgdConfig};
use contrastive_core::train::{Method, TrainConfig};
use contrastive_core::{Error, augment::ops::crop};
use serde::{Deserialize, Serialize};

use super::method::Crd;

/// A student and what it learns from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrdConfig {
    /// The student's network.
    pub backbone: BackboneConfig,
    /// Classes.
    pub classes: usize,
    /// What is summed.
    pub terms: Terms,
    /// Width of both embeddings: 128.
    pub output: usize,
    /// Rows of a bank beside the own one: 16,384.
    pub negatives: usize,
    /// τ of the contrast, above 0: 0.07.
    pub temperature: f64,
    /// What stays of a row of a bank at an update, in `[0, 1)`: 0.5.
    pub bank_momentum: f64,
}

/// The weights of the terms; those of 0 are left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// γ: cross-entropy with labels.
    pub labels: f64,
    /// α: distillation of logits.
    pub logits: f64,
    /// T of the logits, above 0: 4.
    pub logits_temperature: f64,
    /// β: contrast of representations: 0.8.
    pub contrast: f64,
}

impl Terms {
    /// Labels alone: a teacher, or a student without one.
    pub const LABELS: Self = Self { labels: 1.0, logits: 0.0, logits_temperature: 4.0, contrast: 0.0 };
    /// Logits as the repository weighs them: γ 0.1, α 0.9.
    pub const LOGITS: Self = Self { labels: 0.1, logits: 0.9, ..Self::LABELS };
    /// The paper's method: γ 1, β 0.8.
    pub const CONTRAST: Self = Self { contrast: 0.8, ..Self::LABELS };
    /// Both: γ 1, α 1, β 0.8.
    pub const BOTH: Self = Self { logits: 1.0, ..Self::CONTRAST };

    /// Whether a teacher is needed.
    pub fn need_a_teacher(&self) -> bool {
        self.logits > 0.0 || self.contrast > 0.0
    }
}

impl MethodConfig for CrdConfig {
    fn name(&self) -> &'static str {
        "crd"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        let Terms { labels, logits, logits_temperature, contrast } = self.terms;
        let ranges = [
            ("terms.labels", labels, labels >= 0.0, "at least 0"),
            ("terms.logits", logits, logits >= 0.0, "at least 0"),
            ("terms.logits_temperature", logits_temperature, logits_temperature > 0.0, "above 0"),
            ("terms.contrast", contrast, contrast >= 0.0, "at least 0"),
            ("temperature", self.temperature, self.temperature > 0.0, "above 0"),
            ("bank_momentum", self.bank_momentum, (0.0..1.0).contains(&self.bank_momentum), "in [0, 1)"),
        ];
        for (key, value, ok, range) in ranges {
            if !(ok && value.is_finite()) {
                let reason = format!("must be {range} and finite, got {value}");
                return Err(Error::config(format!("{at}.{key}"), reason));
            }
        }
        for (key, value, least) in
            [("classes", self.classes, 2), ("output", self.output, 1), ("negatives", self.negatives, 1)]
        {
            if value < least {
                return Err(Error::config(
                    format!("{at}.{key}"),
                    format!("must be at least {least}, got {value}"),
                ));
            }
        }
        Ok(())
    }

    fn views(&self) -> usize {
        1
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    /// Without a teacher: labels alone.
    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        if self.terms.need_a_teacher() {
            return Err(Error::config("method.terms", "a teacher is needed: `Crd::new` takes one"));
        }
        Ok(Box::new(Crd::new(self.clone(), None, &[], seed, device)?))
    }
}

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 3] = [
    ("cifar100", "the official repository: ResNet-20 from ResNet-56, 240 epochs of SGD"),
    ("cifar10-small", "10,000 images of CIFAR-10: ResNet-8 from a ResNet-18 of width 16"),
    ("smoke", "the embedded sign-language digits: a narrow student"),
];

/// The preset of this name, for the student with the paper's terms. The teacher's is the same with another network
/// ([`teacher`]) and [`Terms::LABELS`].
///
/// # Errors
/// [`Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<CrdConfig>> {
    match name {
        "cifar100" => Ok(cifar100()),
        "cifar10-small" => Ok(cifar10_small()),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

/// The teacher's network of a preset.
///
/// # Errors
/// [`Error::Config`] listing the known names.
pub fn teacher(name: &str) -> Result<BackboneConfig> {
    match name {
        "cifar100" => Ok(small_resnet(56)),
        "cifar10-small" | "smoke" => Ok(tiers::narrow_resnet().into()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

/// The ResNets of He et al. for CIFAR: three groups of 16, 32 and 64 channels.
fn small_resnet(depth: usize) -> BackboneConfig {
    ResNetConfig { base_width: 16, ..ResNetConfig::cifar(depth) }.into()
}

fn method(backbone: BackboneConfig, classes: usize, negatives: usize) -> CrdConfig {
    CrdConfig {
        backbone,
        classes,
        terms: Terms::CONTRAST,
        output: 128,
        negatives,
        temperature: 0.07,
        bank_momentum: 0.5,
    }
}

fn cifar100() -> RunConfig<CrdConfig> {
    let norm = ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]);
    RunConfig {
        method: method(small_resnet(20), 100, 16_384),
        train: TrainConfig { epochs: 240, batch_size: 64, ..TrainConfig::default() },
        optim: OptimConfig {
            lr: 0.05,
            lr_scaling: LrScaling::None,
            schedule: Schedule::Step { milestones: vec![150, 180, 210], gamma: 0.1 },
            optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay: 5e-4, ..SgdConfig::default() }),
            weight_decay_end: None,
        },
        augment: mirrored_crops(norm),
        eval: EvalTransform::as_is(norm.0, norm.1),
    }
}

/// The official code crops 32 pixels out of a border of 4 zeros; recipes here have no border.
fn mirrored_crops((mean, std): ([f32; 3], [f32; 3])) -> Recipe {
    Recipe {
        views: vec![view("view", 1, [crop(32, [0.6, 1.0]), flip(), normalize(mean, std)])],
        ..Recipe::default()
    }
}

/// Batch and rate of `cifar100`, but a cosine, and epochs and negatives for half an hour on a CPU.
fn cifar10_small() -> RunConfig<CrdConfig> {
    let base = cifar100();
    let small = tiers::cifar10_small(method(small_resnet(8), 10, 1024), 1);
    RunConfig {
        train: TrainConfig { epochs: 20, ..base.train },
        optim: OptimConfig { schedule: small.optim.schedule, ..base.optim },
        augment: mirrored_crops(tiers::CIFAR_NORM),
        ..small
    }
}

fn smoke() -> RunConfig<CrdConfig> {
    let student = ResNetConfig { base_width: 4, ..ResNetConfig::cifar(8) };
    let run = tiers::smoke(method(student.into(), 10, 512), 1);
    let (mean, std) = tiers::SMOKE_NORM;
    // Labels need no views that differ much. Banks begin as noise, and a row is renewed once an epoch.
    RunConfig {
        train: TrainConfig { epochs: 48, ..run.train },
        augment: Recipe {
            views: vec![view("view", 1, [crop(32, [0.6, 1.0]), normalize(mean, std)])],
            ..Recipe::default()
        },
        ..run
    }
}
