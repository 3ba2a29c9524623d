//! Presets: the paper's settings, the official repository's where they differ, CIFAR-10 benchmarks, and small ones.

use contrastive_core::Result;
use contrastive_core::augment::ops::{
    bicubic_crop, blur, cifar, crop, flip, gray, imagenet as imagenet_norm, jitter, normalize, view,
};
use contrastive_core::augment::{
    CIFAR_MEAN, CIFAR_STD, CIFAR_STD_PER_IMAGE, EvalTransform, IMAGENET_MEAN, IMAGENET_STD, Op, Recipe,
};
use contrastive_core::experiment::{OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::nn::ResNetConfig;
use contrastive_core::optim::{LrScaling, OptimizerConfig, Schedule, SgdConfig};
use contrastive_core::train::TrainConfig;

use crate::config::{HeadConfig, Predictor, SimSiamConfig};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 9] = [
    ("imagenet", "the paper: ResNet-50, batch 512, SGD, 100 epochs, constant learning rate of the predictor"),
    (
        "imagenet-decayed",
        "the baseline of the paper's table 1: the predictor's rate follows the schedule too",
    ),
    (
        "imagenet-repository",
        "the official repository: the same without gamma and beta in the projector's last batch norm",
    ),
    ("imagenet-repository-256", "the same with batch 256"),
    ("cifar10", "the paper's appendix: ResNet-18, batch 512, 800 epochs, two-layer projector"),
    ("cifar10-lightly", "lightly's benchmark: ResNet-18, batch 128, 200 epochs"),
    ("cifar10-solo-learn", "solo-learn's benchmark: ResNet-18, batch 256, 1000 epochs"),
    ("cifar10-small", "ten epochs of a narrow ResNet-18 on 10,000 images: minutes on two cores"),
    ("smoke", "the embedded sign-language digits: about a minute on two cores"),
];

/// Linear top-1 on ImageNet, in percent, that the paper reports for 100 epochs of ResNet-50 (the preset `imagenet`).
pub const IMAGENET_LINEAR_100_EPOCHS: f64 = 68.1;

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<SimSiamConfig>> {
    match name {
        "imagenet" => Ok(imagenet(512, true)),
        "imagenet-decayed" => Ok(imagenet_decayed()),
        "imagenet-repository" => Ok(imagenet(512, false)),
        "imagenet-repository-256" => Ok(imagenet(256, false)),
        "cifar10" => Ok(cifar10()),
        "cifar10-lightly" => Ok(cifar10_lightly()),
        "cifar10-solo-learn" => Ok(cifar10_solo_learn()),
        "cifar10-small" => Ok(cifar10_small()),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

fn two_views(ops: Vec<Op>) -> Recipe {
    Recipe { views: vec![view("view", 2, ops)], ..Recipe::default() }
}

/// SGD on every parameter, batch norm's and biases included, with a cosine that moves at epochs.
fn sgd(base: f64, lr_scaling: LrScaling, weight_decay: f64) -> OptimConfig {
    OptimConfig {
        lr: base,
        lr_scaling,
        schedule: Schedule::CosinePerEpoch {},
        optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay, ..SgdConfig::default() }),
        weight_decay_end: None,
    }
}

const PER_256: LrScaling = LrScaling::Linear { reference_batch: 256 };

fn imagenet(batch_size: usize, last_affine: bool) -> RunConfig<SimSiamConfig> {
    // MoCo v2's augmentation, in its order.
    let ops = vec![
        crop(224, [0.2, 1.0]),
        jitter([0.4, 0.4, 0.4, 0.1], 0.8),
        gray(),
        blur(0.5),
        flip(),
        imagenet_norm(),
    ];
    let base = 0.05;
    RunConfig {
        method: SimSiamConfig {
            backbone: ResNetConfig { zero_init_residual: true, ..ResNetConfig::torchvision(50) }.into(),
            head: HeadConfig::official(last_affine),
            predictor: Predictor::Trained,
            predictor_lr: Some(PER_256.scale(base, batch_size as u64)),
            stop_gradient: true,
            sync_batch_norm: true,
            chunk: None,
        },
        train: TrainConfig { epochs: 100, batch_size, ..TrainConfig::default() },
        optim: sgd(base, PER_256, 1e-4),
        augment: two_views(ops),
        eval: EvalTransform::resize_crop(256, 224, IMAGENET_MEAN, IMAGENET_STD),
    }
}

fn imagenet_decayed() -> RunConfig<SimSiamConfig> {
    let base = imagenet(512, true);
    RunConfig { method: SimSiamConfig { predictor_lr: None, ..base.method }, ..base }
}

/// ResNet-18 for small images with a projector of two layers, `width` wide.
fn small_images(head: HeadConfig, width: usize) -> SimSiamConfig {
    SimSiamConfig {
        backbone: ResNetConfig { zero_init_residual: true, ..ResNetConfig::cifar(18) }.into(),
        head: HeadConfig { layers: 2, hidden: Some(width), ..head },
        ..imagenet(512, false).method
    }
}

fn cifar10() -> RunConfig<SimSiamConfig> {
    let ops = vec![crop(32, [0.2, 1.0]), jitter([0.4, 0.4, 0.4, 0.1], 0.8), gray(), flip(), cifar()];
    let (base, batch_size) = (0.03, 512);
    let method = small_images(HeadConfig::official(true), 2048);
    RunConfig {
        method: SimSiamConfig { predictor_lr: Some(PER_256.scale(base, batch_size as u64)), ..method },
        train: TrainConfig { epochs: 800, batch_size, ..TrainConfig::default() },
        optim: sgd(base, PER_256, 5e-4),
        augment: two_views(ops),
        eval: EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD_PER_IMAGE),
    }
}

fn cifar10_lightly() -> RunConfig<SimSiamConfig> {
    let ops = vec![crop(32, [0.08, 1.0]), flip(), jitter([0.4, 0.4, 0.4, 0.1], 0.8), gray(), cifar()];
    let method = small_images(HeadConfig::official(false), 2048);
    RunConfig {
        method: SimSiamConfig { backbone: ResNetConfig::cifar(18).into(), predictor_lr: None, ..method },
        train: TrainConfig { epochs: 200, batch_size: 128, ..TrainConfig::default() },
        // The one method of that benchmark whose rate does not follow the batch.
        optim: sgd(0.06, LrScaling::None, 5e-4),
        augment: two_views(ops),
        ..cifar10()
    }
}

fn cifar10_solo_learn() -> RunConfig<SimSiamConfig> {
    let ops = vec![
        bicubic_crop(32, [0.08, 1.0]),
        jitter([0.4, 0.4, 0.4, 0.1], 0.8),
        gray(),
        blur(0.5),
        flip(),
        normalize(CIFAR_MEAN, CIFAR_STD),
    ];
    let method = small_images(HeadConfig::official(false), 2048);
    RunConfig {
        method: SimSiamConfig {
            backbone: ResNetConfig::cifar(18).into(),
            head: HeadConfig { layers: 3, ..method.head },
            predictor_lr: Some(0.5),
            ..method
        },
        train: TrainConfig { epochs: 1000, batch_size: 256, ..TrainConfig::default() },
        optim: OptimConfig {
            schedule: Schedule::WarmupCosine { warmup_epochs: 10.0, end: 0.0, start: 3e-5 },
            ..sgd(0.5, PER_256, 1e-5)
        },
        augment: two_views(ops),
        eval: EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD),
    }
}

/// torchvision's network at a quarter of the width with narrow heads: for the small tiers.
fn narrow() -> SimSiamConfig {
    let head = HeadConfig { output: 128, predictor_hidden: 64, ..HeadConfig::official(false) };
    SimSiamConfig { backbone: tiers::narrow_resnet().into(), predictor_lr: None, ..small_images(head, 512) }
}

/// The paper's three layers in the projector, which lightly's has for CIFAR-10 too.
fn cifar10_small() -> RunConfig<SimSiamConfig> {
    let method = narrow();
    let head = HeadConfig { layers: 3, ..method.head };
    tiers::cifar10_small(SimSiamConfig { head, ..method }, 2)
}

/// Small batches, for more steps from the same images; a wide predictor, and crops that leave most of the hand in both
/// views: in the tier's 270 steps its own teach SimSiam nothing but colours.
fn smoke() -> RunConfig<SimSiamConfig> {
    let method = narrow();
    let head = HeadConfig { predictor_hidden: 512, ..method.head };
    let base = tiers::smoke(SimSiamConfig { head, ..method }, 2);
    RunConfig {
        train: TrainConfig { epochs: 20, batch_size: 24, ..base.train },
        optim: OptimConfig { lr: 0.2, ..base.optim },
        augment: two_views(tiers::light_ops(20, [0.6, 1.0], 0.0, tiers::SMOKE_NORM)),
        ..base
    }
}

#[cfg(test)]
mod tests {
    use contrastive_core::experiment::MethodConfig;
    use contrastive_core::train::Progress;

    use super::*;

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> anyhow::Result<()> {
        contrastive_testing::assert_presets(&PRESETS, preset)
    }

    #[test]
    fn the_papers_learning_rates() -> Result<()> {
        let run = preset("imagenet")?;
        let at = |epoch| Progress {
            seed: 0,
            step: epoch * 2502,
            total_steps: 250_200,
            epoch,
            total_epochs: 100,
            steps_per_epoch: 2502,
        };
        assert!((run.lr(&at(0)) - 0.1).abs() < 1e-9 && (run.lr(&at(50)) - 0.05).abs() < 1e-9);
        let format = format!("{:?}", run.method.groups());
        assert!(format.contains("Fixed(0.1)"), "{format}");
        Ok(())
    }
}
