//! Presets: the paper's settings, Greedy InfoMax's, and small ones.

use contrastive_core::Result;
use contrastive_core::augment::ops::{crop, flip, jitter, view};
use contrastive_core::augment::{ColorSpace, EvalTransform, Interpolation, Op, Recipe};
use contrastive_core::experiment::{OptimConfig, RunConfig, unknown_preset};
use contrastive_core::nn::{PatchInit, PatchNetConfig, PatchStem};
use contrastive_core::optim::{AdamConfig, LrScaling, OptimizerConfig, Schedule};
use contrastive_core::train::TrainConfig;

use super::config::{ImagesConfig, Negatives, RowContextConfig, RowsConfig};
use crate::objective::Product;

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 5] = [
    (
        "images-paper",
        "the paper: ResNet-v2-101 on 7x7 patches of 64 pixels, masked context, Adam 2e-4, batch 512",
    ),
    (
        "images-gim",
        "Greedy InfoMax's CPC on STL-10: ResNet-50's stages on 7x7 patches of 16 pixels, no context",
    ),
    ("images-gim-context", "the same with the masked context network"),
    (
        "images-cifar10-small",
        "ten epochs of a narrow network on 5x5 patches of 16 pixels: minutes on two cores",
    ),
    ("images-smoke", "the embedded sign-language digits: about a minute on two cores"),
];

/// Luma's mean and deviation over STL-10, as Greedy InfoMax normalises by.
pub const STL10_GRAY: (f32, f32) = (0.4120, 0.2570);
/// Luma's mean over ImageNet and the luma-weighted deviation of its channels; the paper gives none.
pub const IMAGENET_GRAY: (f32, f32) = (0.459, 0.225);
/// The same of CIFAR-10.
pub const CIFAR_GRAY: (f32, f32) = (0.481, 0.239);

/// The preset of this name. `gim`, `images-cifar` are short for `images-gim`, `images-cifar10-small`.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<ImagesConfig>> {
    match name {
        "images-paper" => Ok(paper()),
        "images-gim" | "gim" => Ok(greedy_infomax()),
        "images-gim-context" => Ok(greedy_infomax_context()),
        "images-cifar10-small" | "images-cifar" => Ok(cifar10_small()),
        "images-smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

/// Adam at one rate.
fn adam(lr: f64) -> OptimConfig {
    OptimConfig {
        lr,
        lr_scaling: LrScaling::None,
        schedule: Schedule::Constant {},
        optimizer: OptimizerConfig::Adam(AdamConfig::default()),
        weight_decay_end: None,
    }
}

/// `side` x `side` pixels, anywhere in an image of `whole` x `whole`: a resized crop that has nothing to resize.
fn random_crop(side: usize, whole: usize) -> Op {
    let share = (side as f64 / whole as f64).powi(2);
    Op::RandomResizedCrop {
        size: side,
        scale: [share, share],
        ratio: [1.0, 1.0],
        interpolation: Interpolation::Bilinear,
    }
}

/// One gray view, normalised.
fn gray_view(mut ops: Vec<Op>, (mean, std): (f32, f32)) -> Recipe {
    ops.push(Op::Normalize { mean: vec![mean], std: vec![std] });
    Recipe { color: ColorSpace::Gray, views: vec![view("view", 1, ops)] }
}

fn gray_eval(resize: Option<usize>, crop: Option<usize>, (mean, std): (f32, f32)) -> EvalTransform {
    EvalTransform {
        resize,
        crop,
        interpolation: Interpolation::Bilinear,
        color: ColorSpace::Gray,
        mean: vec![mean],
        std: vec![std],
    }
}

fn paper() -> RunConfig<ImagesConfig> {
    let square = [
        Op::Resize { size: 300, interpolation: Interpolation::Bilinear },
        Op::CenterCrop { size: 300 },
        random_crop(256, 300),
        flip(),
    ];
    RunConfig {
        method: ImagesConfig {
            encoder: PatchNetConfig::paper(),
            patch_crop: Some(60),
            context: Some(RowContextConfig { blocks: 5, width: 256 }),
            objective: RowsConfig { steps: 4, skip: 1, negatives: Negatives::All {}, product: Product::Sum },
        },
        // 32 devices with 16 images each.
        train: TrainConfig { epochs: 100, batch_size: 512, ..TrainConfig::default() },
        optim: adam(2e-4),
        augment: gray_view(square.into(), IMAGENET_GRAY),
        eval: gray_eval(Some(300), Some(256), IMAGENET_GRAY),
    }
}

fn greedy_infomax() -> RunConfig<ImagesConfig> {
    RunConfig {
        method: ImagesConfig {
            encoder: PatchNetConfig::greedy_infomax(),
            patch_crop: None,
            context: None,
            objective: RowsConfig {
                steps: 5,
                skip: 1,
                negatives: Negatives::Blind { count: 16 },
                product: Product::Sum,
            },
        },
        train: TrainConfig { epochs: 300, batch_size: 32, ..TrainConfig::default() },
        // The paper's; the code's default is 2e-4.
        optim: adam(1.5e-4),
        // STL-10's images have 96 pixels.
        augment: gray_view(vec![random_crop(64, 96), flip()], STL10_GRAY),
        eval: gray_eval(None, Some(64), STL10_GRAY),
    }
}

fn greedy_infomax_context() -> RunConfig<ImagesConfig> {
    let base = greedy_infomax();
    let context = Some(RowContextConfig { blocks: 5, width: 256 });
    RunConfig { method: ImagesConfig { context, ..base.method }, ..base }
}

/// 5x5 patches of 16 pixels, 4 apart, of images of 32 pixels, through one block in each stage. The targets share half,
/// a quarter and none of their pixels with the context's row.
fn small_images(channels: usize) -> ImagesConfig {
    ImagesConfig {
        encoder: PatchNetConfig {
            in_channels: 1,
            patch: 16,
            stride: 4,
            stem: PatchStem::Imagenet,
            channels,
            blocks: [1, 1, 1],
            init: PatchInit::Scaled,
        },
        patch_crop: None,
        context: Some(RowContextConfig { blocks: 3, width: 64 }),
        objective: RowsConfig {
            steps: 3,
            skip: 1,
            negatives: Negatives::SameImage {},
            product: Product::Sum,
        },
    }
}

fn cifar10_small() -> RunConfig<ImagesConfig> {
    RunConfig {
        method: small_images(32),
        train: TrainConfig { epochs: 10, batch_size: 64, ..TrainConfig::default() },
        optim: adam(1e-3),
        augment: gray_view(vec![crop(32, [0.4, 1.0]), flip(), jitter([0.4, 0.4, 0.0, 0.0], 0.8)], CIFAR_GRAY),
        eval: gray_eval(None, None, CIFAR_GRAY),
    }
}

/// A mirrored hand can be another sign, so no flip.
fn smoke() -> RunConfig<ImagesConfig> {
    let norm = (0.5, 0.25);
    RunConfig {
        method: small_images(16),
        train: TrainConfig { epochs: 24, batch_size: 32, ..TrainConfig::default() },
        optim: adam(1e-3),
        augment: gray_view(vec![crop(32, [0.5, 1.0]), jitter([0.4, 0.4, 0.0, 0.0], 0.8)], norm),
        eval: gray_eval(None, None, norm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contrastive_core::augment::Image;
    use contrastive_core::data::Transform;
    use contrastive_core::experiment::MethodConfig;
    use contrastive_core::rng::{Key, Purpose};
    use contrastive_core::train::config::layered;

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> anyhow::Result<()> {
        contrastive_testing::assert_presets(&PRESETS, preset)
    }

    /// Crops are cut out, not resized, and every published grid has 7 x 7 patches.
    #[test]
    fn views_are_crops_of_published_sizes() -> Result<()> {
        for (name, whole, side) in [("images-paper", 300, 256), ("gim", 96, 64)] {
            let run = preset(name)?;
            // Each column has a gray of its own, in steps that no resize keeps.
            let pixels = (0..whole * whole).map(|i| (i % whole * 37 % 251) as u8).collect();
            let image = Image::new(whole, whole, 1, pixels)?;
            let views = run.augment.apply(&image, Key::new(4, Purpose::Augment).sample(7))?;
            assert_eq!(views[0].shape, [1, side, side], "{name}");
            assert_eq!(run.method.encoder.grid(side, side)?, [7, 7], "{name}");
            let (mean, std) = (run.eval.mean[0], run.eval.std[0]);
            let row: Vec<i32> =
                views[0].data[..side].iter().map(|v| ((v * std + mean) * 255.0).round() as i32).collect();
            let steps: Vec<i32> = row.windows(2).map(|w| (w[1] - w[0]).rem_euclid(251)).collect();
            assert!(steps.iter().all(|&s| s == steps[0] && [37, 214].contains(&s)), "{name}: {row:?}");
        }
        assert!(preset("images-paper")?.cost(1_281_167)?.step_flops > 1e12);
        Ok(())
    }

    #[test]
    fn settings_that_do_not_fit_are_named() -> Result<()> {
        for (set, key) in [
            ("method.patch_crop=17", "method.patch_crop"),
            ("method.encoder.stride=0", "method.encoder.stride"),
            ("method.context.width=0", "method.context.width"),
            ("method.objective.steps=0", "method.objective.steps"),
        ] {
            let run = layered(&smoke(), None, &[set.to_string()]).and_then(|run| run.check());
            let refused = run.expect_err("refused").to_string();
            assert!(refused.contains(key), "{refused}");
        }
        let mut run = smoke();
        run.method.objective.negatives = Negatives::Drawn { count: 0 };
        let refused = run.check().expect_err("refused").to_string();
        assert!(refused.contains("method.objective.negatives.count"), "{refused}");
        assert_eq!(smoke().method.name(), "cpc-images");
        Ok(())
    }
}
