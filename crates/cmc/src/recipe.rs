//! Presets: the paper's settings, the official repository's where they differ, and small ones.

use contrastive_core::Result;
use contrastive_core::augment::ops::{crop, flip, jitter, view};
use contrastive_core::augment::{ColorSpace, EvalTransform, Interpolation, Op, Recipe};
use contrastive_core::experiment::{OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::nn::{AlexNetConfig, HalfConfig, ResNetConfig, SplitConfig};
use contrastive_core::optim::{LrScaling, OptimizerConfig, Schedule, SgdConfig};
use contrastive_core::train::TrainConfig;

use crate::config::{CmcConfig, ContrastConfig, Form, Graph};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 11] = [
    ("imagenet", "the paper: L and ab, a ResNet-50 for each, NCE with 16,384 negatives, 240 epochs"),
    ("imagenet-half", "the same with ResNets of half the width"),
    ("imagenet-double", "the same with ResNets of twice the width"),
    ("imagenet-ydbdr", "the paper's second colour space: Y and DbDr, a ResNet-50 for each"),
    ("imagenet-double-ydbdr", "the same with ResNets of twice the width"),
    ("imagenet-alexnet", "the paper: L and ab, half an AlexNet for each"),
    ("imagenet-alexnet-ydbdr", "the same with Y and DbDr"),
    (
        "imagenet100-ycbcr",
        "the official repository's run on 100 classes: Y and CbCr, half-width ResNet-50s, softmax with 4096",
    ),
    (
        "stl10",
        "STL-10's unlabelled images, as far as the paper says: crops of 64 pixels, half AlexNets, τ 0.1",
    ),
    ("cifar10-small", "ten epochs of narrow ResNet-18s on 10,000 images: minutes on two cores"),
    ("smoke", "the embedded sign-language digits: about a minute on two cores"),
];

/// What maps each channel of a colour space to about `[-1, 1]`: constants of its range, not statistics.
const LAB: ([f32; 3], [f32; 3]) = ([50.0, 6.025, -6.6895], [50.0, 92.208, 101.1675]);
const YCBCR: ([f32; 3], [f32; 3]) = ([116.151, 121.080, 132.342], [109.500, 111.855, 111.964]);
const YDBDR: ([f32; 3], [f32; 3]) = ([0.5, 0.0, 0.0], [0.5, 1.333, 1.333]);

/// Means and deviations of a colour space that is split.
fn norm(color: ColorSpace) -> ([f32; 3], [f32; 3]) {
    match color {
        ColorSpace::YCbCr => YCBCR,
        ColorSpace::YDbDr => YDBDR,
        _ => LAB,
    }
}

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<CmcConfig>> {
    let (lab, ydbdr) = (ColorSpace::Lab, ColorSpace::YDbDr);
    match name {
        "imagenet" => Ok(imagenet(resnet50(64), lab)),
        "imagenet-half" => Ok(imagenet(resnet50(32), lab)),
        "imagenet-double" => Ok(imagenet(resnet50(128), lab)),
        "imagenet-ydbdr" => Ok(imagenet(resnet50(64), ydbdr)),
        "imagenet-double-ydbdr" => Ok(imagenet(resnet50(128), ydbdr)),
        "imagenet-alexnet" => Ok(alexnet(lab)),
        "imagenet-alexnet-ydbdr" => Ok(alexnet(ydbdr)),
        "imagenet100-ycbcr" => Ok(imagenet100()),
        "stl10" => Ok(stl10()),
        "cifar10-small" => Ok(cifar10_small()),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

/// A ResNet-50 with so many channels in its first group; its stem has 64 whatever they are.
fn resnet50(base_width: usize) -> HalfConfig {
    let stem_width = (base_width != 64).then_some(64);
    HalfConfig::Resnet(ResNetConfig { base_width, stem_width, ..ResNetConfig::torchvision(50) })
}

fn method(half: HalfConfig, temperature: f64, form: Form) -> CmcConfig {
    CmcConfig {
        backbone: SplitConfig::brightness_and_colour(half).into(),
        output: 128,
        contrast: ContrastConfig { temperature, form, bank_momentum: 0.5, graph: Graph::Core },
        sync_batch_norm: false,
    }
}

/// One view of the image, in the colour space that is then split.
fn one_view(color: ColorSpace, mut ops: Vec<Op>) -> Recipe {
    let (mean, std) = norm(color);
    ops.push(Op::Normalize { mean: mean.into(), std: std.into() });
    Recipe { color, views: vec![view("view", 1, ops)] }
}

/// Evaluation on the shorter side `resize`, central `crop`, normalised as `color` is.
pub(crate) fn eval(color: ColorSpace, resize: Option<usize>, crop: Option<usize>) -> EvalTransform {
    let (mean, std) = norm(color);
    EvalTransform {
        resize,
        crop,
        interpolation: Interpolation::Bilinear,
        color,
        mean: mean.into(),
        std: std.into(),
    }
}

fn imagenet(half: HalfConfig, color: ColorSpace) -> RunConfig<CmcConfig> {
    RunConfig {
        method: method(half, 0.07, Form::Nce { negatives: 16_384 }),
        train: TrainConfig { epochs: 240, batch_size: 128, ..TrainConfig::default() },
        optim: OptimConfig {
            lr: 0.03,
            lr_scaling: LrScaling::None,
            schedule: Schedule::Step { milestones: vec![120, 160, 200], gamma: 0.1 },
            optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay: 1e-4, ..SgdConfig::default() }),
            weight_decay_end: None,
        },
        // No jitter and no gray: both sides of the split would change alike.
        augment: one_view(color, vec![crop(224, [0.08, 1.0]), flip()]),
        eval: eval(color, Some(256), Some(224)),
    }
}

/// Larger crops and batches than for the ResNets.
fn alexnet(color: ColorSpace) -> RunConfig<CmcConfig> {
    let base = imagenet(HalfConfig::Alexnet(AlexNetConfig::half(1)), color);
    RunConfig {
        train: TrainConfig { batch_size: 256, ..base.train },
        augment: one_view(color, vec![crop(224, [0.2, 1.0]), flip()]),
        ..base
    }
}

fn imagenet100() -> RunConfig<CmcConfig> {
    let color = ColorSpace::YCbCr;
    let base = imagenet(resnet50(32), color);
    RunConfig {
        method: method(resnet50(32), 0.07, Form::Softmax { negatives: 4096 }),
        augment: one_view(color, vec![crop(224, [0.2, 1.0]), flip()]),
        ..base
    }
}

/// Networks and negatives are the paper's for ImageNet; the crops are of Deep InfoMax, which it stands beside.
fn stl10() -> RunConfig<CmcConfig> {
    let color = ColorSpace::Lab;
    let half = HalfConfig::Alexnet(AlexNetConfig { image: 64, ..AlexNetConfig::half(1) });
    let base = alexnet(color);
    RunConfig {
        method: method(half, 0.1, Form::Nce { negatives: 16_384 }),
        augment: one_view(color, vec![crop(64, [0.2, 1.0]), flip()]),
        eval: eval(color, Some(73), Some(64)),
        ..base
    }
}

/// A ResNet-18 for small images at a quarter of the width for each side: for the small tiers.
fn narrow() -> CmcConfig {
    let half = HalfConfig::Resnet(tiers::narrow_resnet());
    CmcConfig { sync_batch_norm: true, ..method(half, 0.1, Form::InBatch {}) }
}

fn cifar10_small() -> RunConfig<CmcConfig> {
    let base = tiers::cifar10_small(narrow(), 1);
    let ops = vec![crop(32, [0.2, 1.0]), flip(), jitter([0.4, 0.4, 0.4, 0.1], 0.8)];
    RunConfig { augment: one_view(ColorSpace::Lab, ops), eval: eval(ColorSpace::Lab, None, None), ..base }
}

/// A mirrored hand can be another sign, so no flip.
fn smoke() -> RunConfig<CmcConfig> {
    let base = tiers::smoke(narrow(), 1);
    RunConfig {
        train: TrainConfig { epochs: 32, ..base.train },
        augment: one_view(ColorSpace::Lab, vec![crop(20, [0.2, 1.0]), jitter([0.4, 0.4, 0.4, 0.1], 0.8)]),
        eval: eval(ColorSpace::Lab, None, None),
        ..base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contrastive_core::augment::Image;
    use contrastive_core::data::Transform;
    use contrastive_core::nn::BackboneConfig;
    use contrastive_core::rng::{Key, Purpose};

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> anyhow::Result<()> {
        contrastive_testing::assert_presets(&PRESETS, preset)
    }

    /// The normalised values that the official code's transforms give.
    #[test]
    fn colours_are_normalised_as_published() -> Result<()> {
        let run = preset("imagenet")?;
        let eval = EvalTransform { resize: None, crop: None, ..run.eval };
        let red = Image::new(1, 1, 3, vec![255, 0, 0])?;
        let values = eval.apply(&red, Key::new(0, Purpose::Augment))?.remove(0).data;
        for (got, expected) in values.iter().zip([0.0648, 0.8033, 0.7304]) {
            assert!((got - expected).abs() < 1e-4, "{values:?}");
        }
        let green = Image::new(1, 1, 3, vec![0, 255, 0])?;
        let values = eval.apply(&green, Key::new(0, Purpose::Augment))?.remove(0).data;
        assert!((values[1] + 1.0).abs() < 1e-4, "{values:?}");
        Ok(())
    }

    #[test]
    fn settings_that_do_not_fit_are_named() -> Result<()> {
        let refused = |change: fn(&mut RunConfig<CmcConfig>)| -> Result<String> {
            let mut run = preset("smoke")?;
            change(&mut run);
            Ok(run.check().err().map(|e| e.to_string()).unwrap_or_default())
        };
        let named = refused(|run| run.method.contrast.form = Form::Nce { negatives: 0 })?;
        assert!(named.contains("method.contrast.form.negatives"), "{named}");
        let named = refused(|run| run.method.backbone = BackboneConfig::from(ResNetConfig::cifar(18)))?;
        assert!(named.contains("method.backbone.kind"), "{named}");
        let named = refused(|run| run.method.contrast.temperature = 0.0)?;
        assert!(named.contains("method.contrast.temperature"), "{named}");
        Ok(())
    }

    /// 47 and 188 million parameters in published tables, which count the networks without heads.
    #[test]
    fn networks_have_the_published_sizes() -> Result<()> {
        for (name, millions) in [("imagenet", 47.0), ("imagenet-half", 12.0), ("imagenet-double", 188.0)] {
            let run = preset(name)?;
            let BackboneConfig::Split(split) = run.method.backbone else { continue };
            let counted = BackboneConfig::Split(split).cost(224)?.parameters as f64 / 1e6;
            assert!((counted / millions - 1.0).abs() < 0.03, "{name}: {counted}");
        }
        Ok(())
    }
}
