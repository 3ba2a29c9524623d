//! Presets: the papers' settings, the official repository's where they differ, and small ones. Those of v2 begin with
//! `v2-`.

use contrastive_core::Result;
use contrastive_core::augment::ops::{bicubic_crop, flip, gray, jitter, view};
use contrastive_core::augment::{BlurKernel, EvalTransform, Interpolation, Op, Recipe};
use contrastive_core::experiment::{OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::nn::{BackboneConfig, Init, ResNetConfig, Shortcut, Stem};
use contrastive_core::optim::{LarsConfig, LarsVariant, LrScaling, OptimizerConfig, Schedule};
use contrastive_core::train::TrainConfig;

use crate::config::{HeadConfig, HeadStyle, LossForm, SimClrConfig, Version};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 11] = [
    ("imagenet", "the paper: ResNet-50, batch 4096, LARS, 100 epochs, weight decay 1e-6"),
    ("imagenet-repository", "the official repository's command: the same with weight decay 1e-4"),
    ("cifar10", "the paper's appendix B.9: ResNet-50 with a CIFAR stem, batch 1024, temperature 0.5"),
    ("cifar10-repository", "the official repository's command: ResNet-18, batch 512, no blur"),
    ("cifar10-small", "ten epochs of a narrow ResNet-18 on 10,000 images: minutes on two cores"),
    ("smoke", "the embedded sign-language digits: about a minute on two cores"),
    ("v2-imagenet", "v2: ResNet-50, head of three layers, batch 4096, LARS 0.1 √B, 800 epochs"),
    ("v2-imagenet-sk", "the same with selective kernels"),
    ("v2-imagenet-152x3-sk", "the largest: ResNet-152, three times as wide, selective kernels"),
    ("v2-cifar10-small", "`cifar10-small` with v2's head"),
    ("v2-smoke", "`smoke` with v2's head"),
];

/// Linear top-1 on ImageNet, in percent, that the paper reports for 100 epochs of ResNet-50 (the preset `imagenet`).
pub const IMAGENET_LINEAR_100_EPOCHS: f64 = 64.5;

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<SimClrConfig>> {
    match name {
        "imagenet" => Ok(imagenet(1e-6)),
        "imagenet-repository" => Ok(imagenet(1e-4)),
        "cifar10" => Ok(cifar10()),
        "cifar10-repository" => Ok(cifar10_repository()),
        "cifar10-small" => Ok(tiers::cifar10_small(narrow(Version::V1, 0.5), 2)),
        "smoke" => Ok(tiers::smoke(narrow(Version::V1, 0.2), 2)),
        "v2-imagenet" => Ok(v2_imagenet(official_backbone(50, Stem::ImagenetSame))),
        "v2-imagenet-sk" => Ok(v2_imagenet(selective_backbone(50, 1))),
        "v2-imagenet-152x3-sk" => Ok(v2_imagenet(selective_backbone(152, 3))),
        "v2-cifar10-small" => Ok(tiers::cifar10_small(narrow(Version::V2, 0.5), 2)),
        "v2-smoke" => Ok(tiers::smoke(narrow(Version::V2, 0.2), 2)),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

/// The paper's augmentation (appendix A) with jitter strength `s`, for square crops of `size` pixels: two views, inputs
/// left in [0, 1].
fn two_views(size: usize, s: f64, blur: bool) -> Recipe {
    let mut ops = vec![
        bicubic_crop(size, [0.08, 1.0]),
        flip(),
        jitter([0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s], 0.8),
        gray(),
    ];
    if blur {
        ops.push(Op::RandomBlur { p: 0.5, sigma: [0.1, 2.0], kernel: BlurKernel::True });
    }
    Recipe { views: vec![view("view", 2, ops)], ..Recipe::default() }
}

/// The central `crop` pixels of images whose shorter side is `resize`; inputs in [0, 1]: SimCLR normalises nothing.
pub(crate) fn unit_range(resize: usize, crop: usize) -> EvalTransform {
    EvalTransform {
        interpolation: Interpolation::Bicubic,
        ..EvalTransform::resize_crop(resize, crop, [0.0; 3], [1.0; 3])
    }
}

/// SimCLR's LARS with a cosine.
pub(crate) fn lars(base: f64, weight_decay: f64, warmup_epochs: f64) -> OptimConfig {
    OptimConfig {
        lr: base,
        lr_scaling: LrScaling::Linear { reference_batch: 256 },
        schedule: Schedule::WarmupCosine { warmup_epochs, end: 0.0, start: 0.0 },
        optimizer: OptimizerConfig::Lars(LarsConfig { weight_decay, ..LarsConfig::new(LarsVariant::SimClr) }),
        weight_decay_end: None,
    }
}

/// SimCLR's own network: TensorFlow's initialiser, a projection in every group's first block, last gamma 0.
fn official_resnet(depth: usize, stem: Stem) -> ResNetConfig {
    ResNetConfig {
        stem,
        zero_init_residual: true,
        shortcut: Shortcut::ProjectFirst,
        conv_init: Init::VarianceScalingFanIn,
        ..ResNetConfig::torchvision(depth)
    }
}

pub(crate) fn official_backbone(depth: usize, stem: Stem) -> BackboneConfig {
    official_resnet(depth, stem).into()
}

/// v2's network with selective kernels.
pub(crate) fn selective_backbone(depth: usize, width_multiplier: usize) -> BackboneConfig {
    let base = official_resnet(depth, Stem::ImagenetSame);
    ResNetConfig { width_multiplier, selective_kernels: Some(0.0625), ..base }.into()
}

fn imagenet(weight_decay: f64) -> RunConfig<SimClrConfig> {
    RunConfig {
        method: SimClrConfig {
            version: Version::V1,
            backbone: official_backbone(50, Stem::ImagenetSame),
            head: HeadConfig::official(Version::V1),
            temperature: 0.1,
            loss: LossForm::Repository,
            sync_batch_norm: true,
            chunk: None,
        },
        train: TrainConfig { epochs: 100, batch_size: 4096, ..TrainConfig::default() },
        optim: lars(0.3, weight_decay, 10.0),
        augment: two_views(224, 1.0, true),
        // The central 87.5 % resized to 224 pixels.
        eval: unit_range(256, 224),
    }
}

fn cifar10() -> RunConfig<SimClrConfig> {
    let base = imagenet(1e-6);
    RunConfig {
        method: SimClrConfig {
            backbone: official_backbone(50, Stem::Cifar),
            temperature: 0.5,
            ..base.method
        },
        train: TrainConfig { epochs: 1000, batch_size: 1024, ..base.train },
        optim: lars(1.0, 1e-6, 10.0),
        augment: two_views(32, 0.5, false),
        // Leaves CIFAR's images as they are, and takes photographs of any size.
        eval: unit_range(32, 32),
    }
}

fn cifar10_repository() -> RunConfig<SimClrConfig> {
    let base = cifar10();
    RunConfig {
        method: SimClrConfig { backbone: official_backbone(18, Stem::Cifar), ..base.method },
        train: TrainConfig { batch_size: 512, ..base.train },
        optim: lars(1.0, 1e-4, 10.0),
        ..base
    }
}

fn v2_imagenet(backbone: BackboneConfig) -> RunConfig<SimClrConfig> {
    let base = imagenet(1e-4);
    RunConfig {
        method: SimClrConfig {
            version: Version::V2,
            backbone,
            head: HeadConfig::official(Version::V2),
            ..base.method
        },
        train: TrainConfig { epochs: 800, ..base.train },
        // A rate of 6.4 after 5 % of the steps.
        optim: OptimConfig { lr_scaling: LrScaling::Sqrt, ..lars(0.1, 1e-4, 40.0) },
        ..base
    }
}

/// torchvision's network at a quarter of the width with lightly's head: for the small tiers.
pub(crate) fn narrow(version: Version, temperature: f64) -> SimClrConfig {
    let official = HeadConfig::official(version);
    SimClrConfig {
        version,
        backbone: tiers::narrow_resnet().into(),
        head: HeadConfig { hidden: Some(512), style: HeadStyle::Torch, ..official },
        temperature,
        loss: LossForm::Paper,
        sync_batch_norm: true,
        chunk: None,
    }
}

#[cfg(test)]
mod tests {
    use contrastive_core::augment::Image;
    use contrastive_core::data::Transform;
    use contrastive_core::experiment::MethodConfig;
    use contrastive_core::rng::{Key, Purpose};

    use super::*;

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> anyhow::Result<()> {
        contrastive_testing::assert_presets(&PRESETS, preset)
    }

    #[test]
    fn images_of_cifar_are_evaluated_as_they_are() -> Result<()> {
        let pixels: Vec<u8> = (0..32 * 32 * 3u32).map(|i| (i * i % 251) as u8).collect();
        let image = Image::new(32, 32, 3, pixels)?;
        let view = preset("cifar10")?.eval.apply(&image, Key::new(0, Purpose::Eval))?.remove(0);
        assert_eq!(view.shape, [3, 32, 32]);
        for (i, value) in image.data.iter().enumerate() {
            assert_eq!(view.data[i % 3 * 1024 + i / 3], f32::from(*value) / 255.0);
        }
        Ok(())
    }

    #[test]
    fn the_papers_learning_rates() -> Result<()> {
        for (name, warmup, epochs, rate) in [("imagenet", 10, 100, 4.8), ("v2-imagenet", 40, 800, 6.4)] {
            let run = preset(name)?;
            let progress = contrastive_core::train::Progress {
                seed: 0,
                step: warmup * 312,
                total_steps: epochs * 312,
                epoch: warmup,
                total_epochs: epochs,
                steps_per_epoch: 312,
            };
            assert_eq!(run.train.epochs, epochs);
            assert!((run.lr(&progress) - rate).abs() < 1e-9, "{name}");
        }
        Ok(())
    }

    #[test]
    fn versions_differ_in_name_and_head() -> Result<()> {
        for (name, _) in PRESETS {
            let method = preset(name)?.method;
            let (expected, layers) = if name.starts_with("v2-") { ("simclr-v2", 3) } else { ("simclr", 2) };
            assert_eq!((method.name(), method.head.layers), (expected, layers), "{name}");
        }
        let largest = preset("v2-imagenet-152x3-sk")?.method;
        assert_eq!(largest.backbone().to_string(), "resnet152-x3-sk-project-same");
        Ok(())
    }
}
