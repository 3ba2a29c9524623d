//! Presets: the paper's settings, the official repository's where they differ, and small ones.

use contrastive_core::Result;
use contrastive_core::augment::ops::{cifar, crop, flip, gray, imagenet, jitter, view};
use contrastive_core::augment::{
    CIFAR_MEAN, CIFAR_STD_PER_IMAGE, EvalTransform, IMAGENET_MEAN, IMAGENET_STD, Op, Recipe,
};
use contrastive_core::experiment::{OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::nn::{Init, ResNetConfig};
use contrastive_core::optim::{LrScaling, OptimizerConfig, Schedule, SgdConfig};
use contrastive_core::train::TrainConfig;

use crate::config::{InstDiscConfig, LossForm};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 5] = [
    ("imagenet", "the paper, as the official code runs it: ResNet-50, NCE with 4096 negatives, 200 epochs"),
    (
        "imagenet-repository",
        "the official repository's later model: the same with a softmax over 65,536 negatives",
    ),
    (
        "cifar10",
        "the paper and the official command: ResNet-18 with a CIFAR stem, softmax over the whole bank",
    ),
    ("cifar10-small", "ten epochs of a narrow ResNet-18 on 10,000 images: minutes on two cores"),
    ("smoke", "the embedded sign-language digits: about a minute on two cores"),
];

/// kNN top-1 on CIFAR-10, in percent, that the paper reports for the non-parametric softmax (table 1; the preset
/// `cifar10`).
pub const CIFAR10_KNN: f64 = 80.8;

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<InstDiscConfig>> {
    match name {
        "imagenet" => Ok(imagenet_run(LossForm::Nce, 4096)),
        "imagenet-repository" => Ok(imagenet_run(LossForm::Softmax, 65536)),
        "cifar10" => Ok(cifar10()),
        "cifar10-small" => Ok(cifar10_small()),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

fn one_view(ops: impl Into<Vec<Op>>) -> Recipe {
    Recipe { views: vec![view("view", 1, ops)], ..Recipe::default() }
}

/// SGD at 0.03, a tenth of it from epoch 120 and a hundredth from 160.
fn sgd(weight_decay: f64) -> OptimConfig {
    OptimConfig {
        lr: 0.03,
        lr_scaling: LrScaling::None,
        schedule: Schedule::Step { milestones: vec![120, 160], gamma: 0.1 },
        optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay, ..SgdConfig::default() }),
        weight_decay_end: None,
    }
}

/// The softmax over the whole bank.
fn method(network: ResNetConfig, temperature: f64) -> InstDiscConfig {
    InstDiscConfig {
        backbone: network.into(),
        output: 128,
        temperature,
        loss: LossForm::Softmax,
        negatives: 0,
        bank_momentum: 0.5,
        proximal: 0.0,
        sync_batch_norm: false,
    }
}

fn imagenet_run(loss: LossForm, negatives: usize) -> RunConfig<InstDiscConfig> {
    RunConfig {
        method: InstDiscConfig { loss, negatives, ..method(ResNetConfig::torchvision(50), 0.07) },
        train: TrainConfig { epochs: 200, batch_size: 256, ..TrainConfig::default() },
        optim: sgd(1e-4),
        // Gray before the jitter, unlike on CIFAR-10.
        augment: one_view([crop(224, [0.2, 1.0]), gray(), jitter([0.4; 4], 1.0), flip(), imagenet()]),
        eval: EvalTransform::resize_crop(256, 224, IMAGENET_MEAN, IMAGENET_STD),
    }
}

fn cifar10() -> RunConfig<InstDiscConfig> {
    RunConfig {
        // The official network for CIFAR-10 begins as PyTorch's layers do.
        method: method(ResNetConfig { conv_init: Init::TorchDefault, ..ResNetConfig::cifar(18) }, 0.1),
        train: TrainConfig { epochs: 200, batch_size: 128, ..TrainConfig::default() },
        optim: sgd(5e-4),
        // No flip.
        augment: one_view([crop(32, [0.2, 1.0]), jitter([0.4; 4], 1.0), gray(), cifar()]),
        eval: EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD_PER_IMAGE),
    }
}

/// torchvision's network at a quarter of the width: for the small tiers.
fn narrow(temperature: f64) -> InstDiscConfig {
    InstDiscConfig { sync_batch_norm: true, ..method(tiers::narrow_resnet(), temperature) }
}

fn cifar10_small() -> RunConfig<InstDiscConfig> {
    tiers::cifar10_small(narrow(0.1), 1)
}

/// One view of each sample in a step, so twice as many epochs as the tier's cost no more; and crops that leave most of
/// the hand in the view.
fn smoke() -> RunConfig<InstDiscConfig> {
    let base = tiers::smoke(narrow(0.1), 1);
    RunConfig {
        train: TrainConfig { epochs: 64, batch_size: 32, ..base.train },
        optim: OptimConfig {
            schedule: Schedule::WarmupCosine { warmup_epochs: 6.0, end: 0.0, start: 0.0 },
            ..base.optim
        },
        augment: one_view(tiers::light_ops(20, [0.5, 1.0], 0.0, tiers::SMOKE_NORM)),
        ..base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> anyhow::Result<()> {
        contrastive_testing::assert_presets(&PRESETS, preset)
    }

    #[test]
    fn the_papers_learning_rates() -> Result<()> {
        let run = preset("imagenet")?;
        for (epoch, lr) in [(0, 0.03), (119, 0.03), (120, 0.003), (159, 0.003), (160, 0.0003), (199, 0.0003)]
        {
            let progress = contrastive_core::train::Progress {
                seed: 0,
                step: 5004 * epoch,
                total_steps: 5004 * 200,
                epoch,
                total_epochs: 200,
                steps_per_epoch: 5004,
            };
            assert!((run.lr(&progress) - lr).abs() < 1e-12, "epoch {epoch}: {}", run.lr(&progress));
        }
        Ok(())
    }

    #[test]
    fn nce_needs_noise() -> Result<()> {
        let mut run = preset("imagenet")?;
        run.method.negatives = 0;
        assert!(run.check().is_err_and(|e| e.to_string().contains("method.negatives")));
        Ok(())
    }
}
