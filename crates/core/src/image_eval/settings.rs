//! The settings of each protocol.

use super::{ClassifierConfig, FeatureKind, HeadInit, ImageProtocol, Subject};
use crate::augment::ops::{bicubic_crop, crop, flip, view};
use crate::augment::{Op, Recipe};
use crate::experiment::{OptimConfig, RunConfig};
use crate::nn::BackboneConfig;
use crate::optim::{LarsConfig, LarsVariant, LrScaling, OptimizerConfig, Schedule, SgdConfig};
use crate::train::TrainConfig;
use crate::{Error, Result};

/// Fewer steps than this in an epoch halve the batch.
const LEAST_STEPS: usize = 3;

/// What one protocol has for itself.
struct Settings {
    epochs: u64,
    batch: usize,
    /// For 256 samples; it grows with the batch.
    lr: f64,
    schedule: Schedule,
    optimizer: OptimizerConfig,
    init: HeadInit,
    bicubic: bool,
    frozen: bool,
    rates: Vec<f64>,
    features: FeatureKind,
}

fn sgd(nesterov: bool, weight_decay: f64) -> OptimizerConfig {
    OptimizerConfig::Sgd(SgdConfig { momentum: 0.9, nesterov, weight_decay })
}

/// A cosine to 0 that changes at every step.
fn every_step() -> Schedule {
    Schedule::WarmupCosine { warmup_epochs: 0.0, end: 0.0, start: 0.0 }
}

fn every_epoch() -> Schedule {
    Schedule::CosinePerEpoch {}
}

fn steps(milestones: [u64; 2], gamma: f64) -> Schedule {
    Schedule::Step { milestones: milestones.to_vec(), gamma }
}

/// DINO's features: the last four class tokens of narrow transformers, class token and mean of wide ones.
fn dino_features(backbone: &BackboneConfig) -> FeatureKind {
    match backbone {
        BackboneConfig::Vit(vit) if vit.dim < 768 => FeatureKind::LastBlocks { count: vit.depth.min(4) },
        BackboneConfig::Vit(_) => FeatureKind::ClassMean {},
        _ => FeatureKind::Pooled {},
    }
}

impl ImageProtocol {
    fn settings(self, backbone: &BackboneConfig) -> Settings {
        let linear = Settings {
            epochs: 100,
            batch: 256,
            lr: 0.1,
            schedule: every_epoch(),
            optimizer: sgd(false, 0.0),
            init: HeadInit::Normal(0.01),
            bicubic: false,
            frozen: true,
            rates: vec![1.0],
            features: FeatureKind::Pooled {},
        };
        match self {
            Self::LinearMocoV1 => Settings { lr: 30.0, schedule: steps([60, 80], 0.1), ..linear },
            Self::LinearSimclrV1 => Settings {
                epochs: 90,
                batch: 4096,
                schedule: every_step(),
                optimizer: sgd(true, 0.0),
                bicubic: true,
                ..linear
            },
            Self::LinearMocoV3V1 => {
                let lr = if matches!(backbone, BackboneConfig::Vit(_)) { 3.0 } else { 0.1 };
                Settings { epochs: 90, batch: 1024, lr, ..linear }
            }
            Self::LinearByolV1 => Settings {
                epochs: 80,
                batch: 1024,
                // The sweep's rates themselves stand in `rates`.
                lr: 1.0,
                schedule: every_step(),
                optimizer: sgd(true, 0.0),
                init: HeadInit::Haiku,
                bicubic: true,
                rates: vec![0.4, 0.3, 0.2, 0.1, 0.05],
                ..linear
            },
            Self::LinearSwavV1 => Settings { lr: 0.3, optimizer: sgd(false, 1e-6), ..linear },
            Self::LinearSimsiamV1 => Settings {
                epochs: 90,
                batch: 4096,
                optimizer: OptimizerConfig::Lars(LarsConfig::new(LarsVariant::Swav)),
                ..linear
            },
            Self::LinearDinoV1 => Settings {
                batch: 1024,
                lr: 1.0,
                rates: vec![1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1],
                features: dino_features(backbone),
                ..linear
            },
            Self::LinearLightlyV1 => {
                Settings { epochs: 90, schedule: every_step(), init: HeadInit::Torch, ..linear }
            }
            Self::LinearLayersV1 => Settings {
                epochs: 60,
                schedule: Schedule::Step { milestones: vec![30, 40, 50], gamma: 0.2 },
                features: FeatureKind::Stages {},
                ..linear
            },
            Self::FinetuneSimclr1V1 | Self::FinetuneSimclr10V1 | Self::FinetuneSimclr100V1 => Settings {
                epochs: if self == Self::FinetuneSimclr1V1 { 60 } else { 30 },
                batch: 4096,
                lr: 0.05,
                schedule: every_step(),
                optimizer: sgd(true, 0.0),
                bicubic: true,
                frozen: false,
                ..linear
            },
            Self::FinetuneByol1V1 | Self::FinetuneByol10V1 | Self::FinetuneByol100V1 => Settings {
                epochs: 30,
                batch: 1024,
                lr: 0.05,
                schedule: every_step(),
                optimizer: sgd(true, 0.0),
                init: HeadInit::Haiku,
                bicubic: true,
                frozen: false,
                ..linear
            },
            Self::FinetuneSwav1V1 | Self::FinetuneSwav10V1 => {
                let (trunk, head) = if self == Self::FinetuneSwav1V1 { (0.02, 5.0) } else { (0.01, 0.2) };
                Settings {
                    epochs: 20,
                    lr: trunk,
                    schedule: steps([12, 16], 0.2),
                    init: HeadInit::Torch,
                    frozen: false,
                    rates: vec![head / trunk],
                    ..linear
                }
            }
        }
    }

    /// The runs of this protocol on `samples` training images of `classes` classes. Of several the best on held-out
    /// images counts, and of one with several [`ClassifierConfig::rates`] the best rate. `side` is the shorter side of
    /// the images, for evaluations that take them as they are.
    ///
    /// The batch is the paper's, halved until an epoch has three steps; the learning rate follows it in proportion.
    ///
    /// # Errors
    /// A backbone that lacks the features, fewer than two classes.
    pub fn runs(
        self,
        subject: &Subject,
        side: usize,
        samples: usize,
        classes: usize,
    ) -> Result<Vec<RunConfig<ClassifierConfig>>> {
        let settings = self.settings(&subject.backbone);
        let mut batch = settings.batch;
        while batch > 1 && samples / batch < LEAST_STEPS {
            batch /= 2;
        }
        let eval = &subject.eval;
        let image = eval.crop.or(eval.resize).unwrap_or(side);
        let crops = if settings.bicubic { bicubic_crop } else { crop };
        let normalize = Op::Normalize { mean: eval.mean.clone(), std: eval.std.clone() };
        let ops = vec![crops(image, [0.08, 1.0]), flip(), normalize];
        let run = RunConfig {
            method: ClassifierConfig {
                protocol: self,
                encoder: subject.digest()?,
                classes,
                image,
                frozen: settings.frozen,
                init: settings.init,
                rates: settings.rates,
                features: settings.features,
                backbone: subject.backbone,
            },
            train: TrainConfig {
                epochs: settings.epochs,
                batch_size: batch,
                keep_checkpoints: 1,
                ..TrainConfig::default()
            },
            optim: OptimConfig {
                lr: settings.lr,
                lr_scaling: LrScaling::Linear { reference_batch: 256 },
                schedule: settings.schedule,
                optimizer: settings.optimizer,
                weight_decay_end: None,
            },
            augment: Recipe { color: eval.color, views: vec![view("train", 1, ops)] },
            eval: eval.clone(),
        };
        run.check()?;
        let byol = matches!(self, Self::FinetuneByol1V1 | Self::FinetuneByol10V1 | Self::FinetuneByol100V1);
        if !byol {
            return Ok(vec![run]);
        }
        let mut runs = Vec::new();
        for epochs in [30, 50] {
            for lr in [0.01, 0.02, 0.05, 0.1, 0.005] {
                let mut run = run.clone();
                (run.train.epochs, run.optim.lr) = (epochs, lr);
                runs.push(run);
            }
        }
        Ok(runs)
    }

    /// Samples of each class of a set of `samples` that the protocol trains on, where it does not take all: 1 % and 10 %,
    /// rounded, at least one.
    ///
    /// # Errors
    /// [`Error::Data`] for a set without classes.
    pub fn per_class(self, name: &str, samples: usize, classes: usize) -> Result<Option<usize>> {
        if classes == 0 {
            return Err(Error::data(name, "the protocol needs labels"));
        }
        let share = self.labels() * samples as f64 / classes as f64;
        Ok((self.labels() < 1.0).then(|| (share.round() as usize).max(1)))
    }
}
