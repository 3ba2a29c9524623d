//! Presets: the paper's settings, the official repository's where they differ, CIFAR-10 benchmarks, and small ones.

use contrastive_core::Result;
use contrastive_core::augment::ops::{
    bicubic_crop, cifar, crop, flip, gray, imagenet as imagenet_norm, jitter, normalize, solarize, view,
};
use contrastive_core::augment::{
    BlurKernel, CIFAR_MEAN, CIFAR_STD, CIFAR_STD_PER_IMAGE, EvalTransform, IMAGENET_MEAN, IMAGENET_STD,
    Interpolation, Op, Recipe,
};
use contrastive_core::experiment::{OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::nn::{BackboneConfig, Init, ResNetConfig, Shortcut, Stem};
use contrastive_core::optim::{LarsConfig, LarsVariant, LrScaling, OptimizerConfig, Schedule, SgdConfig};
use contrastive_core::train::TrainConfig;

use crate::config::{ByolConfig, HeadConfig, HeadStyle, LossForm, MomentumSchedule, TargetInit};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 12] = [
    ("imagenet", "the paper: ResNet-50, batch 4096, LARS, 1000 epochs, τ from 0.996"),
    ("imagenet-300", "the paper's ablations: 300 epochs, learning rate 0.3, τ from 0.99"),
    ("imagenet-batch512", "the paper: batch 512, 1000 epochs, learning rate 0.4, τ from 0.9995"),
    (
        "imagenet-repository",
        "the official repository: last gammas 0, heads without last bias, target with its own draws",
    ),
    ("imagenet-repository-40", "the same for 40 epochs"),
    ("imagenet-repository-100", "the same for 100 epochs"),
    ("imagenet-repository-300", "the same for 300 epochs"),
    (
        "imagenette-repository",
        "the repository's small example: ResNet-18, 128 pixels, batch 256, 1000 epochs",
    ),
    ("cifar10", "lightly's benchmark: ResNet-18, batch 128, SGD, 200 epochs, τ 0.99"),
    ("cifar10-solo-learn", "solo-learn's benchmark: ResNet-18, batch 256, LARS, 1000 epochs, τ from 0.99"),
    ("cifar10-small", "ten epochs of a narrow ResNet-18 on 10,000 images: minutes on two cores"),
    ("smoke", "the embedded sign-language digits: about a minute on two cores"),
];

/// Linear top-1 on ImageNet, in percent, that the paper reports for ResNet-50 (the preset `imagenet`).
pub const IMAGENET_LINEAR: f64 = 74.3;

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<ByolConfig>> {
    match name {
        "imagenet" => Ok(imagenet(Budget { epochs: 1000, lr: 0.2, weight_decay: 1.5e-6, momentum: 0.996 })),
        "imagenet-300" => Ok(imagenet(EPOCHS_300)),
        "imagenet-batch512" => Ok(imagenet_batch512()),
        "imagenet-repository" => Ok(repository(preset("imagenet")?)),
        "imagenet-repository-40" => {
            Ok(repository(imagenet(Budget { epochs: 40, momentum: 0.97, ..EPOCHS_100 })))
        }
        "imagenet-repository-100" => Ok(repository(imagenet(EPOCHS_100))),
        "imagenet-repository-300" => Ok(repository(imagenet(EPOCHS_300))),
        "imagenette-repository" => Ok(imagenette()),
        "cifar10" => Ok(cifar10()),
        "cifar10-solo-learn" => Ok(cifar10_solo_learn()),
        "cifar10-small" => Ok(cifar10_small()),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

/// What changes with the length of a run on ImageNet.
struct Budget {
    epochs: u64,
    lr: f64,
    weight_decay: f64,
    momentum: f64,
}

const EPOCHS_100: Budget = Budget { epochs: 100, lr: 0.45, weight_decay: 1e-6, momentum: 0.99 };
const EPOCHS_300: Budget = Budget { epochs: 300, lr: 0.3, weight_decay: 1e-6, momentum: 0.99 };

/// The paper's augmentation (appendix B) for square crops of `size` pixels: the first view is always blurred and never
/// solarised, the second the other way round for the most part.
fn two_views(size: usize) -> Recipe {
    let ops = |blur: f64, solar: f64| {
        vec![
            bicubic_crop(size, [0.08, 1.0]),
            flip(),
            jitter([0.4, 0.4, 0.2, 0.1], 0.8),
            gray(),
            Op::RandomBlur { p: blur, sigma: [0.1, 2.0], kernel: BlurKernel::True },
            solarize(solar),
            imagenet_norm(),
        ]
    };
    Recipe {
        views: vec![view("first", 1, ops(1.0, 0.0)), view("second", 1, ops(0.1, 0.2))],
        ..Recipe::default()
    }
}

/// LARS with `base`·B/256, ten epochs of warm-up from `start`, then a cosine to 0.
fn lars(base: f64, start: f64, lars: LarsConfig) -> OptimConfig {
    OptimConfig {
        lr: base,
        lr_scaling: LrScaling::Linear { reference_batch: 256 },
        schedule: Schedule::WarmupCosine { warmup_epochs: 10.0, end: 0.0, start },
        optimizer: OptimizerConfig::Lars(lars),
        weight_decay_end: None,
    }
}

/// Haiku's network: a projection in every group's first block. `zero_init` begins every block's last gamma at 0.
fn official_backbone(depth: usize, zero_init: bool) -> BackboneConfig {
    let network = ResNetConfig {
        stem: Stem::Imagenet,
        zero_init_residual: zero_init,
        shortcut: Shortcut::ProjectFirst,
        conv_init: Init::VarianceScalingFanIn,
        ..ResNetConfig::torchvision(depth)
    };
    network.into()
}

fn imagenet(budget: Budget) -> RunConfig<ByolConfig> {
    let Budget { epochs, lr, weight_decay, momentum } = budget;
    RunConfig {
        method: ByolConfig {
            backbone: official_backbone(50, false),
            head: HeadConfig::official(true),
            predictor: true,
            momentum,
            momentum_schedule: MomentumSchedule::Cosine,
            target: TargetInit::Copy,
            loss: LossForm::Paper,
            sync_batch_norm: true,
            chunk: None,
        },
        train: TrainConfig { epochs, batch_size: 4096, ..TrainConfig::default() },
        optim: lars(lr, 0.0, LarsConfig { weight_decay, ..LarsConfig::new(LarsVariant::Byol) }),
        augment: two_views(224),
        eval: EvalTransform {
            interpolation: Interpolation::Bicubic,
            ..EvalTransform::resize_crop(256, 224, IMAGENET_MEAN, IMAGENET_STD)
        },
    }
}

fn imagenet_batch512() -> RunConfig<ByolConfig> {
    let base = imagenet(Budget { epochs: 1000, lr: 0.4, weight_decay: 1.5e-6, momentum: 0.9995 });
    RunConfig { train: TrainConfig { batch_size: 512, ..base.train }, ..base }
}

/// A run of the paper's as the official code makes it.
fn repository(run: RunConfig<ByolConfig>) -> RunConfig<ByolConfig> {
    let method = ByolConfig {
        backbone: official_backbone(50, true),
        head: HeadConfig::official(false),
        target: TargetInit::Fresh,
        ..run.method
    };
    RunConfig { method, ..run }
}

fn imagenette() -> RunConfig<ByolConfig> {
    let base = repository(imagenet(Budget { epochs: 1000, lr: 2.0, weight_decay: 1e-6, momentum: 0.996 }));
    RunConfig {
        method: ByolConfig { backbone: official_backbone(18, true), ..base.method },
        train: TrainConfig { batch_size: 256, ..base.train },
        augment: two_views(128),
        eval: EvalTransform { resize: Some(146), crop: Some(128), ..base.eval },
        ..base
    }
}

fn cifar10() -> RunConfig<ByolConfig> {
    let ops = vec![crop(32, [0.08, 1.0]), flip(), jitter([0.4, 0.4, 0.4, 0.1], 0.8), gray(), cifar()];
    RunConfig {
        method: ByolConfig { backbone: ResNetConfig::cifar(18).into(), ..light() },
        train: TrainConfig { epochs: 200, batch_size: 128, ..TrainConfig::default() },
        optim: OptimConfig {
            lr: 0.06,
            lr_scaling: LrScaling::Linear { reference_batch: 128 },
            schedule: Schedule::CosinePerEpoch {},
            optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay: 5e-4, ..SgdConfig::default() }),
            weight_decay_end: None,
        },
        augment: Recipe { views: vec![view("view", 2, ops)], ..Recipe::default() },
        eval: EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD_PER_IMAGE),
    }
}

fn cifar10_solo_learn() -> RunConfig<ByolConfig> {
    let ops = |solar: f64| {
        vec![
            bicubic_crop(32, [0.08, 1.0]),
            jitter([0.4, 0.4, 0.2, 0.1], 0.8),
            gray(),
            solarize(solar),
            flip(),
            normalize(CIFAR_MEAN, CIFAR_STD),
        ]
    };
    let adapt = LarsConfig {
        weight_decay: 1e-5,
        trust_coefficient: 0.02,
        clip: true,
        ..LarsConfig::new(LarsVariant::SoloLearn)
    };
    RunConfig {
        method: ByolConfig {
            backbone: ResNetConfig::cifar(18).into(),
            head: HeadConfig { style: HeadStyle::Torch, ..HeadConfig::official(true) },
            momentum_schedule: MomentumSchedule::Cosine,
            loss: LossForm::Paper,
            ..light()
        },
        train: TrainConfig { epochs: 1000, batch_size: 256, ..TrainConfig::default() },
        optim: lars(1.0, 3e-5, adapt),
        augment: Recipe {
            views: vec![view("first", 1, ops(0.0)), view("second", 1, ops(0.2))],
            ..Recipe::default()
        },
        eval: EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD),
    }
}

/// lightly's heads, loss and constant τ on torchvision's network at a quarter of the width: for the small tiers.
fn light() -> ByolConfig {
    ByolConfig {
        backbone: tiers::narrow_resnet().into(),
        head: HeadConfig {
            hidden: 1024,
            output: 256,
            predictor_hidden: 1024,
            last_bias: true,
            style: HeadStyle::Torch,
        },
        predictor: true,
        momentum: 0.99,
        momentum_schedule: MomentumSchedule::Constant,
        target: TargetInit::Copy,
        loss: LossForm::Cosine,
        sync_batch_norm: true,
        chunk: None,
    }
}

fn cifar10_small() -> RunConfig<ByolConfig> {
    tiers::cifar10_small(light(), 2)
}

/// Small batches, for more steps from the same images; the loss in the paper's scale, a target that follows fast, and crops
/// that leave most of the hand in both views: in the tier's 270 steps BYOL, which has no negatives to begin with, learns
/// nothing but colours.
fn smoke() -> RunConfig<ByolConfig> {
    let base = tiers::smoke(ByolConfig { momentum: 0.9, loss: LossForm::Paper, ..light() }, 2);
    RunConfig {
        train: TrainConfig { epochs: 20, batch_size: 32, ..base.train },
        optim: OptimConfig { lr: 0.2, ..base.optim },
        augment: Recipe {
            views: vec![view("view", 2, tiers::light_ops(20, [0.7, 1.0], 0.0, tiers::SMOKE_NORM))],
            ..base.augment
        },
        ..base
    }
}

#[cfg(test)]
mod tests {
    use contrastive_core::train::Progress;

    use super::*;

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> anyhow::Result<()> {
        contrastive_testing::assert_presets(&PRESETS, preset)
    }

    fn at(step: u64) -> Progress {
        Progress {
            seed: 0,
            step,
            total_steps: 312_000,
            epoch: step / 312,
            total_epochs: 1000,
            steps_per_epoch: 312,
        }
    }

    #[test]
    fn the_papers_learning_rate_and_momentum() -> Result<()> {
        let run = preset("imagenet")?;
        assert!((run.lr(&at(3120)) - 3.2).abs() < 1e-9);
        let momentum = |step| run.method.momentum_at(&at(step));
        assert!((momentum(0) - 0.996).abs() < 1e-12);
        assert!((momentum(156_000) - 0.998).abs() < 1e-12);
        assert!((momentum(312_000) - 1.0).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn the_views_differ_as_in_the_papers_table() -> Result<()> {
        let views = preset("imagenet")?.augment.views;
        let chances = |i: usize| -> Vec<f64> {
            let of = |op: &Op| match op {
                Op::RandomBlur { p, .. } | Op::RandomSolarize { p, .. } => Some(*p),
                _ => None,
            };
            views[i].ops.iter().filter_map(of).collect()
        };
        assert_eq!((chances(0), chances(1)), (vec![1.0, 0.0], vec![0.1, 0.2]));
        Ok(())
    }
}
