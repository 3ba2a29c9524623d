//! Presets: the official repository's settings, which are the paper's, other libraries' on CIFAR-10, and small ones.

use contrastive_core::Result;
use contrastive_core::augment::ops::{blur, crop, flip, gray, jitter, normalize, view};
use contrastive_core::augment::{
    CIFAR_MEAN, CIFAR_STD, EvalTransform, IMAGENET_MEAN, IMAGENET_STD, Recipe, SWAV_STD, ViewRecipe,
};
use contrastive_core::experiment::{OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::nn::{BackboneConfig, ResNetConfig};
use contrastive_core::optim::{AdamConfig, LarsConfig, LarsVariant, LrScaling, OptimizerConfig, Schedule};
use contrastive_core::train::TrainConfig;

use crate::config::{ProjectorConfig, QueueConfig, SwavConfig};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 9] = [
    ("imagenet", "the paper: ResNet-50, batch 4096, 2x224 + 6x96 crops, LARS, 800 epochs"),
    (
        "imagenet-bs256",
        "the official repository's command for small batches: batch 256, queue of 3840, 200 epochs",
    ),
    ("imagenet-2x224", "the official repository's command without multi-crop: 2x224 crops, 400 epochs"),
    (
        "imagenet-w2",
        "the official repository's command: ResNet-50 of twice the width, 2x224 + 4x96 crops, 400 epochs",
    ),
    ("imagenet-w4", "the same at four times the width: batch 2560, queue of 2560 from the start"),
    ("cifar10", "lightly's benchmark: ResNet-18, batch 128, 512 prototypes, two crops, Adam, 200 epochs"),
    (
        "cifar10-solo-learn",
        "solo-learn's: ResNet-18, batch 256, 3000 prototypes, queue of 3840, LARS, 1000 epochs",
    ),
    ("cifar10-small", "ten epochs of a narrow ResNet-18 on 10,000 images: minutes on two cores"),
    ("smoke", "the embedded sign-language digits: about a minute on two cores"),
];

/// Linear top-1 on ImageNet, in percent, that the paper reports for 800 epochs of ResNet-50 (the preset `imagenet`).
pub const IMAGENET_LINEAR_800_EPOCHS: f64 = 75.3;

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<SwavConfig>> {
    match name {
        "imagenet" => Ok(imagenet()),
        "imagenet-bs256" => Ok(imagenet_bs256()),
        "imagenet-2x224" => Ok(imagenet_2x224()),
        "imagenet-w2" => Ok(imagenet_w2()),
        "imagenet-w4" => Ok(imagenet_w4()),
        "cifar10" => Ok(cifar10()),
        "cifar10-solo-learn" => Ok(cifar10_solo_learn()),
        "cifar10-small" => Ok(cifar10_small()),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

/// `count` crops of `scale` of the area to `size` pixels with the official augmentation; SwAV's own red deviation.
fn crops(name: &str, count: usize, size: usize, scale: [f64; 2]) -> ViewRecipe {
    let colours = jitter([0.8, 0.8, 0.8, 0.2], 0.8);
    let ops = [crop(size, scale), flip(), colours, gray(), blur(0.5), normalize(IMAGENET_MEAN, SWAV_STD)];
    view(name, count, ops)
}

fn multi_crop(views: Vec<ViewRecipe>) -> Recipe {
    Recipe { views, ..Recipe::default() }
}

fn lars(lr: f64, warmup_epochs: f64) -> OptimConfig {
    let start = if warmup_epochs > 0.0 { 0.3 } else { 0.0 };
    OptimConfig {
        // Written for the whole batch: the official commands do not scale it.
        lr,
        lr_scaling: LrScaling::None,
        schedule: Schedule::WarmupCosine { warmup_epochs, end: lr / 1000.0, start },
        optimizer: OptimizerConfig::Lars(LarsConfig {
            weight_decay: 1e-6,
            ..LarsConfig::new(LarsVariant::Swav)
        }),
        weight_decay_end: None,
    }
}

/// ResNet-50 at `width` times its width.
fn backbone(width: usize) -> BackboneConfig {
    ResNetConfig { width_multiplier: width, ..ResNetConfig::torchvision(50) }.into()
}

fn imagenet() -> RunConfig<SwavConfig> {
    RunConfig {
        method: SwavConfig {
            backbone: backbone(1),
            projector: ProjectorConfig { hidden: 2048, output: 128 },
            prototypes: 3000,
            views: 8,
            assigned: 2,
            temperature: 0.1,
            epsilon: 0.05,
            sinkhorn_iterations: 3,
            queue: QueueConfig::none(),
            // One epoch.
            freeze_steps: 313,
            normalize_prototypes: true,
            sync_batch_norm: true,
        },
        train: TrainConfig { epochs: 800, batch_size: 4096, ..TrainConfig::default() },
        optim: lars(4.8, 10.0),
        augment: multi_crop(vec![crops("large", 2, 224, [0.14, 1.0]), crops("small", 6, 96, [0.05, 0.14])]),
        eval: EvalTransform::resize_crop(256, 224, IMAGENET_MEAN, SWAV_STD),
    }
}

fn imagenet_bs256() -> RunConfig<SwavConfig> {
    let base = imagenet();
    RunConfig {
        method: SwavConfig {
            queue: QueueConfig { length: 3840, start_epoch: 15 },
            // One epoch.
            freeze_steps: 5005,
            ..base.method
        },
        train: TrainConfig { epochs: 200, batch_size: 256, ..base.train },
        optim: lars(0.6, 0.0),
        ..base
    }
}

fn imagenet_2x224() -> RunConfig<SwavConfig> {
    let base = imagenet();
    RunConfig {
        method: SwavConfig { views: 2, ..base.method },
        train: TrainConfig { epochs: 400, ..base.train },
        augment: multi_crop(vec![crops("large", 2, 224, [0.08, 1.0])]),
        ..base
    }
}

fn imagenet_w2() -> RunConfig<SwavConfig> {
    let base = imagenet();
    RunConfig {
        method: SwavConfig {
            backbone: backbone(2),
            projector: ProjectorConfig { hidden: 8192, output: 128 },
            views: 6,
            ..base.method
        },
        train: TrainConfig { epochs: 400, ..base.train },
        augment: multi_crop(vec![crops("large", 2, 224, [0.14, 1.0]), crops("small", 4, 96, [0.05, 0.14])]),
        ..base
    }
}

fn imagenet_w4() -> RunConfig<SwavConfig> {
    let base = imagenet_w2();
    RunConfig {
        method: SwavConfig {
            backbone: backbone(4),
            queue: QueueConfig { length: 2560, start_epoch: 0 },
            ..base.method
        },
        train: TrainConfig { batch_size: 2560, ..base.train },
        augment: multi_crop(vec![crops("large", 2, 224, [0.08, 1.0]), crops("small", 4, 96, [0.08, 0.14])]),
        ..base
    }
}

fn cifar10() -> RunConfig<SwavConfig> {
    let base = imagenet();
    let colours = jitter([0.4, 0.4, 0.4, 0.1], 0.8);
    // ImageNet's normalisation, as in that benchmark.
    let ops = [crop(32, [0.14, 1.0]), flip(), colours, gray(), normalize(IMAGENET_MEAN, IMAGENET_STD)];
    RunConfig {
        method: SwavConfig {
            backbone: ResNetConfig::cifar(18).into(),
            projector: ProjectorConfig { hidden: 512, output: 128 },
            prototypes: 512,
            views: 2,
            freeze_steps: 0,
            ..base.method
        },
        train: TrainConfig { epochs: 200, batch_size: 128, ..base.train },
        optim: OptimConfig {
            lr: 1e-3,
            lr_scaling: LrScaling::Linear { reference_batch: 128 },
            schedule: Schedule::CosinePerEpoch {},
            optimizer: OptimizerConfig::Adam(AdamConfig { weight_decay: 1e-6, ..AdamConfig::default() }),
            weight_decay_end: None,
        },
        augment: multi_crop(vec![view("large", 2, ops)]),
        eval: EvalTransform::as_is(IMAGENET_MEAN, IMAGENET_STD),
    }
}

fn cifar10_solo_learn() -> RunConfig<SwavConfig> {
    let base = cifar10();
    let colours = jitter([0.8, 0.8, 0.8, 0.2], 0.8);
    let ops = [crop(32, [0.08, 1.0]), flip(), colours, gray(), blur(0.5), normalize(CIFAR_MEAN, CIFAR_STD)];
    RunConfig {
        method: SwavConfig {
            projector: ProjectorConfig { hidden: 2048, output: 128 },
            prototypes: 3000,
            queue: QueueConfig { length: 3840, start_epoch: 50 },
            // Two epochs.
            freeze_steps: 390,
            ..base.method
        },
        train: TrainConfig { epochs: 1000, batch_size: 256, ..base.train },
        optim: OptimConfig {
            lr: 0.6,
            lr_scaling: LrScaling::Linear { reference_batch: 256 },
            schedule: Schedule::WarmupCosine { warmup_epochs: 10.0, end: 0.0, start: 3e-5 },
            optimizer: OptimizerConfig::Lars(LarsConfig {
                weight_decay: 1e-6,
                trust_coefficient: 0.02,
                clip: true,
                ..LarsConfig::new(LarsVariant::SoloLearn)
            }),
            weight_decay_end: None,
        },
        augment: multi_crop(vec![view("large", 2, ops)]),
        eval: EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD),
    }
}

/// torchvision's network at a quarter of the width with lightly's head: for the small tiers.
fn narrow(prototypes: usize, views: usize) -> SwavConfig {
    SwavConfig {
        backbone: tiers::narrow_resnet().into(),
        projector: ProjectorConfig { hidden: 512, output: 128 },
        prototypes,
        views,
        ..cifar10().method
    }
}

fn cifar10_small() -> RunConfig<SwavConfig> {
    let run = tiers::cifar10_small(narrow(512, 6), 2);
    let large = run.augment.views.into_iter().map(|large| ViewRecipe { name: "large".into(), ..large });
    let small = view("small", 4, tiers::light_ops(20, [0.08, 0.3], 0.5, tiers::CIFAR_NORM));
    RunConfig { augment: multi_crop(large.chain([small]).collect()), ..run }
}

fn smoke() -> RunConfig<SwavConfig> {
    // Small batches, for more steps; fewer prototypes than samples in them, and nearly hard assignments: with an ε of 0.02
    // or more the loss stays at ln K for most of these few hundred steps.
    let method = SwavConfig { epsilon: 0.005, ..narrow(24, 2) };
    let run = tiers::smoke(method, 2);
    let schedule = Schedule::WarmupCosine { warmup_epochs: 2.0, end: 0.0, start: 0.0 };
    RunConfig {
        train: TrainConfig { batch_size: 32, ..run.train },
        optim: OptimConfig { lr: 0.3, schedule, ..run.optim },
        ..run
    }
}

#[cfg(test)]
mod tests {
    use contrastive_core::augment::Op;
    use contrastive_core::train::Progress;

    use super::*;

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> anyhow::Result<()> {
        contrastive_testing::assert_presets(&PRESETS, preset)
    }

    #[test]
    fn the_papers_learning_rate() -> Result<()> {
        let run = preset("imagenet")?;
        let lr = |step: u64| {
            let (epoch, steps_per_epoch) = (step / 312, 312);
            let total_steps = 800 * steps_per_epoch;
            run.lr(&Progress { seed: 0, step, total_steps, epoch, total_epochs: 800, steps_per_epoch })
        };
        assert!((lr(0) - 0.3).abs() < 1e-9 && (lr(3120) - 4.8).abs() < 1e-9);
        assert!((lr(800 * 312) - 0.0048).abs() < 1e-9);
        Ok(())
    }

    #[test]
    fn red_is_divided_by_swavs_own_deviation() -> Result<()> {
        let run = preset("imagenet")?;
        for view in &run.augment.views {
            let normalized = Op::Normalize { mean: IMAGENET_MEAN.to_vec(), std: vec![0.228, 0.224, 0.225] };
            assert_eq!(view.ops.last(), Some(&normalized));
        }
        assert_eq!(run.eval.std, [0.228, 0.224, 0.225]);
        Ok(())
    }
}
