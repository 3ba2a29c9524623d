//! Presets: the official repository's settings, which are the paper's, and small ones.

use contrastive_core::Result;
use contrastive_core::augment::ops::{cifar, crop, flip, gray, jitter, view};
use contrastive_core::augment::{CIFAR_MEAN, CIFAR_STD_PER_IMAGE, EvalTransform, Recipe};
use contrastive_core::experiment::{OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::nn::{Init, ResNetConfig};
use contrastive_core::optim::{LrScaling, OptimizerConfig, Schedule, SgdConfig};
use contrastive_core::train::TrainConfig;

use crate::config::InvaSpreadConfig;

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 4] = [
    ("cifar10", "the paper and its official code: ResNet-18 with a CIFAR stem, batch 128, 301 epochs"),
    ("stl10", "the same on images of 96 pixels (the training set, or all 105,000 images)"),
    ("cifar10-small", "ten epochs of a narrow ResNet-18 on 10,000 images: minutes on two cores"),
    ("smoke", "the embedded sign-language digits: about a minute on two cores"),
];

/// kNN top-1 on CIFAR-10, in percent, that the paper reports (table 1; the preset `cifar10`).
pub const CIFAR10_KNN: f64 = 83.6;

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<InvaSpreadConfig>> {
    match name {
        "cifar10" => Ok(official(32)),
        "stl10" => Ok(official(96)),
        "cifar10-small" => Ok(cifar10_small()),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

fn method(network: ResNetConfig) -> InvaSpreadConfig {
    InvaSpreadConfig {
        backbone: network.into(),
        output: 128,
        temperature: 0.1,
        negative_weight: 1.0,
        sync_batch_norm: false,
        chunk: None,
    }
}

/// The official code's run on square images of `size` pixels. Its network begins as PyTorch's layers do.
fn official(size: usize) -> RunConfig<InvaSpreadConfig> {
    let ops = [crop(size, [0.2, 1.0]), jitter([0.4; 4], 1.0), gray(), flip(), cifar()];
    RunConfig {
        method: method(ResNetConfig { conv_init: Init::TorchDefault, ..ResNetConfig::cifar(18) }),
        train: TrainConfig { epochs: 301, batch_size: 128, ..TrainConfig::default() },
        optim: OptimConfig {
            lr: 0.03,
            lr_scaling: LrScaling::None,
            schedule: Schedule::Factors { milestones: vec![120, 160, 200], factors: vec![0.1, 0.05, 0.01] },
            optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay: 5e-4, ..SgdConfig::default() }),
            weight_decay_end: None,
        },
        augment: Recipe { views: vec![view("view", 2, ops)], ..Recipe::default() },
        // STL-10 too is normalised by CIFAR's statistics.
        eval: EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD_PER_IMAGE),
    }
}

/// torchvision's network at a quarter of the width: for the small tiers.
fn narrow() -> InvaSpreadConfig {
    InvaSpreadConfig { sync_batch_norm: true, ..method(tiers::narrow_resnet()) }
}

fn cifar10_small() -> RunConfig<InvaSpreadConfig> {
    tiers::cifar10_small(narrow(), 2)
}

fn smoke() -> RunConfig<InvaSpreadConfig> {
    let base = tiers::smoke(InvaSpreadConfig { temperature: 0.2, ..narrow() }, 2);
    RunConfig { optim: OptimConfig { lr: 0.2, ..base.optim }, ..base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> anyhow::Result<()> {
        contrastive_testing::assert_presets(&PRESETS, preset)
    }

    #[test]
    fn the_official_learning_rates() -> Result<()> {
        let run = preset("cifar10")?;
        let at = |epoch: u64| {
            run.lr(&contrastive_core::train::Progress {
                seed: 0,
                step: 390 * epoch,
                total_steps: 390 * 301,
                epoch,
                total_epochs: 301,
                steps_per_epoch: 390,
            })
        };
        for (epoch, lr) in [(0, 0.03), (119, 0.03), (120, 0.003), (160, 0.0015), (200, 0.0003), (300, 0.0003)]
        {
            assert!((at(epoch) - lr).abs() < 1e-12, "epoch {epoch}: {}", at(epoch));
        }
        Ok(())
    }
}
