//! Presets: the paper's settings, the official repository's runs, and small ones.

use contrastive_core::Result;
use contrastive_core::augment::ops::{
    bicubic_crop, blur, crop, flip, gray, jitter, normalize, solarize, view,
};
use contrastive_core::augment::{
    CIFAR_MEAN, CIFAR_STD_PER_IMAGE, EvalTransform, IMAGENET_MEAN, IMAGENET_STD, Interpolation, Op, Recipe,
};
use contrastive_core::experiment::{OptimConfig, RunConfig, tiers, unknown_preset};
use contrastive_core::nn::{BackboneConfig, ResNetConfig, VitConfig};
use contrastive_core::optim::{
    AdamConfig, LarsConfig, LarsVariant, LrScaling, OptimizerConfig, Schedule, SgdConfig,
};
use contrastive_core::train::TrainConfig;

use crate::config::{DinoConfig, HeadConfig, TeacherTemperature};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 16] = [
    ("imagenet", "the paper's ViT-S/16 (published arguments): batch 1024, 10 local crops, 800 epochs"),
    ("imagenet-vit-s8", "the same with patches of 8 pixels; its published arguments were not seen"),
    ("imagenet-vit-b16", "the paper's ViT-B/16 (published arguments): 400 epochs"),
    ("imagenet-vit-b8", "the paper's ViT-B/8 (published arguments): 300 epochs"),
    ("imagenet-resnet50", "the paper's ResNet-50 (published arguments): LARS, batch 4080, 800 epochs"),
    ("imagenet-2-crops", "the authors' arguments without local crops: ViT-S/16, 300 epochs"),
    ("imagenet-vanilla", "the repository's defaults: ViT-S/16, batch 512, 8 local crops, 100 epochs"),
    ("imagenet-boosted", "the repository's boosted run: ViT-S/16, batch 1024, 300 epochs"),
    ("imagenet-vit-t16", "the repository's defaults with its smallest network, ViT-T/16"),
    ("imagenet-resnet50-repository", "the repository's small run of ResNet-50: SGD, batch 512, 100 epochs"),
    ("imagenet-resnet50-lightly", "lightly's benchmark: ResNet-50, SGD, batch 128, 100 epochs"),
    ("cifar10", "lightly's benchmark: ResNet-18 with a CIFAR stem, batch 512, 200 epochs, two crops"),
    ("cifar10-solo-learn", "solo-learn's: ResNet-18 with a CIFAR stem, LARS, 1000 epochs, two crops"),
    ("cifar10-small", "ten epochs of a narrow ResNet-18 on 10,000 images: minutes on two cores"),
    ("smoke", "the embedded sign-language digits: about a minute on two cores"),
    ("smoke-vit", "the same with a small vision transformer"),
];

/// Linear top-1 on ImageNet, in percent, that the paper reports for ViT-S/16 (the preset `imagenet`).
pub const IMAGENET_LINEAR: f64 = 77.0;

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<DinoConfig>> {
    match name {
        "imagenet" => Ok(vit_small(16)),
        "imagenet-vit-s8" => Ok(vit_small(8)),
        "imagenet-vit-b16" => Ok(vit_base_16()),
        "imagenet-vit-b8" => Ok(vit_base_8()),
        "imagenet-resnet50" => Ok(resnet50()),
        "imagenet-2-crops" => Ok(two_crops()),
        "imagenet-vanilla" => Ok(vanilla(VitConfig::small(16))),
        "imagenet-boosted" => Ok(boosted()),
        "imagenet-vit-t16" => Ok(vanilla(VitConfig::tiny(16))),
        "imagenet-resnet50-repository" => Ok(resnet50_repository()),
        "imagenet-resnet50-lightly" => Ok(resnet50_lightly()),
        "cifar10" => Ok(cifar10()),
        "cifar10-solo-learn" => Ok(cifar10_solo_learn()),
        "cifar10-small" => Ok(cifar10_small()),
        "smoke" => Ok(smoke()),
        "smoke-vit" => Ok(smoke_vit()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

/// The official augmentation: two global views of 224 pixels that differ in blur and solarisation, then `locals` local
/// ones of 96; crops of these shares of the area.
fn multi_crop(global: [f64; 2], local: [f64; 2], locals: usize) -> Recipe {
    let ops = |size: usize, scale: [f64; 2], end: &[Op]| {
        let mut ops = vec![bicubic_crop(size, scale), flip(), jitter([0.4, 0.4, 0.2, 0.1], 0.8), gray()];
        ops.extend_from_slice(end);
        ops.push(normalize(IMAGENET_MEAN, IMAGENET_STD));
        ops
    };
    let mut views = vec![
        view("global1", 1, ops(224, global, &[blur(1.0)])),
        view("global2", 1, ops(224, global, &[blur(0.1), solarize(0.2)])),
    ];
    if locals > 0 {
        views.push(view("local", locals, ops(96, local, &[blur(0.5)])));
    }
    Recipe { views, ..Recipe::default() }
}

/// The central 224 pixels of images whose shorter side is 256.
fn imagenet_eval() -> EvalTransform {
    EvalTransform {
        interpolation: Interpolation::Bicubic,
        ..EvalTransform::resize_crop(256, 224, IMAGENET_MEAN, IMAGENET_STD)
    }
}

/// A rate per 256 samples that warms up over ten epochs and ends at `end`.
fn optim(lr: f64, end: f64, optimizer: OptimizerConfig) -> OptimConfig {
    OptimConfig {
        lr,
        lr_scaling: LrScaling::Linear { reference_batch: 256 },
        schedule: Schedule::WarmupCosine { warmup_epochs: 10.0, end, start: 0.0 },
        optimizer,
        weight_decay_end: None,
    }
}

/// AdamW with a weight decay that rises from 0.04 to 0.4.
fn adamw(lr: f64, end: f64) -> OptimConfig {
    let optimizer = OptimizerConfig::AdamW(AdamConfig { weight_decay: 0.04, ..AdamConfig::default() });
    OptimConfig { weight_decay_end: Some(0.4), ..optim(lr, end, optimizer) }
}

fn sgd(lr: f64, end: f64, weight_decay: f64) -> OptimConfig {
    optim(lr, end, OptimizerConfig::Sgd(SgdConfig { weight_decay, ..SgdConfig::default() }))
}

/// Each parameter's gradient is clipped by itself.
fn train(epochs: u64, batch_size: usize, clip: Option<f64>) -> TrainConfig {
    TrainConfig { epochs, batch_size, grad_clip: clip, grad_clip_each: true, ..TrainConfig::default() }
}

/// The repository's defaults on a backbone.
fn defaults(backbone: impl Into<BackboneConfig>) -> DinoConfig {
    DinoConfig {
        backbone: backbone.into(),
        head: HeadConfig::official(),
        local_crops: 8,
        student_temperature: 0.1,
        teacher_temperature: TeacherTemperature::constant(0.04),
        centre: true,
        centre_momentum: 0.9,
        momentum: 0.996,
        momentum_end: 1.0,
        freeze_last_layer: 1,
        sync_batch_norm: true,
    }
}

fn warm(start: f64, end: f64, warmup_epochs: u64) -> TeacherTemperature {
    TeacherTemperature { start, end, warmup_epochs }
}

fn vanilla(vit: VitConfig) -> RunConfig<DinoConfig> {
    RunConfig {
        method: defaults(VitConfig { drop_path: 0.1, ..vit }),
        train: train(100, 512, Some(3.0)),
        optim: adamw(5e-4, 1e-6),
        augment: multi_crop([0.4, 1.0], [0.05, 0.4], 8),
        eval: imagenet_eval(),
    }
}

fn boosted() -> RunConfig<DinoConfig> {
    let base = vanilla(VitConfig::small(16));
    RunConfig {
        method: DinoConfig {
            head: HeadConfig { norm_last_layer: false, ..HeadConfig::official() },
            teacher_temperature: warm(0.04, 0.07, 30),
            ..base.method
        },
        train: train(300, 1024, Some(3.0)),
        ..base
    }
}

fn vit_small(patch: usize) -> RunConfig<DinoConfig> {
    let base = vanilla(VitConfig::small(patch));
    RunConfig {
        method: DinoConfig {
            head: HeadConfig { norm_last_layer: false, ..HeadConfig::official() },
            local_crops: 10,
            teacher_temperature: warm(0.04, 0.07, 30),
            ..base.method
        },
        train: train(800, 1024, None),
        optim: adamw(5e-4, 1e-5),
        augment: multi_crop([0.25, 1.0], [0.05, 0.25], 10),
        ..base
    }
}

fn vit_base_16() -> RunConfig<DinoConfig> {
    let base = vit_small(16);
    RunConfig {
        method: DinoConfig {
            backbone: VitConfig { drop_path: 0.1, ..VitConfig::base(16) }.into(),
            head: HeadConfig::official(),
            teacher_temperature: warm(0.04, 0.07, 50),
            freeze_last_layer: 3,
            ..base.method
        },
        train: train(400, 1024, Some(0.3)),
        optim: adamw(7.5e-4, 2e-6),
        ..base
    }
}

fn vit_base_8() -> RunConfig<DinoConfig> {
    let base = vit_base_16();
    RunConfig {
        method: DinoConfig {
            backbone: VitConfig { drop_path: 0.1, ..VitConfig::base(8) }.into(),
            teacher_temperature: warm(0.03, 0.07, 50),
            ..base.method
        },
        train: train(300, 1056, Some(3.0)),
        optim: adamw(5e-4, 2e-6),
        ..base
    }
}

fn resnet50() -> RunConfig<DinoConfig> {
    let lars = LarsConfig { weight_decay: 1e-6, ..LarsConfig::new(LarsVariant::Dino) };
    RunConfig {
        method: DinoConfig {
            // What the published full checkpoint holds.
            head: HeadConfig {
                hidden: 4096,
                output: 60_000,
                layers: 2,
                batch_norm: true,
                weight_norm: false,
                norm_last_layer: false,
                ..HeadConfig::official()
            },
            local_crops: 6,
            teacher_temperature: warm(0.04, 0.07, 50),
            freeze_last_layer: 0,
            ..defaults(ResNetConfig::torchvision(50))
        },
        train: train(800, 4080, None),
        optim: optim(0.3, 0.0048, OptimizerConfig::Lars(lars)),
        augment: multi_crop([0.14, 1.0], [0.05, 0.14], 6),
        eval: imagenet_eval(),
    }
}

fn resnet50_repository() -> RunConfig<DinoConfig> {
    RunConfig {
        method: defaults(ResNetConfig::torchvision(50)),
        train: train(100, 512, Some(3.0)),
        optim: sgd(0.03, 1e-6, 1e-4),
        augment: multi_crop([0.14, 1.0], [0.05, 0.14], 8),
        eval: imagenet_eval(),
    }
}

fn resnet50_lightly() -> RunConfig<DinoConfig> {
    let base = resnet50_repository();
    RunConfig {
        method: DinoConfig { local_crops: 6, ..base.method },
        train: train(100, 128, Some(3.0)),
        optim: sgd(0.03, 0.0, 1e-4),
        augment: multi_crop([0.14, 1.0], [0.05, 0.14], 6),
        ..base
    }
}

fn two_crops() -> RunConfig<DinoConfig> {
    let base = vit_small(16);
    RunConfig {
        method: DinoConfig { local_crops: 0, ..base.method },
        train: train(300, 1024, None),
        augment: multi_crop([0.14, 1.0], [0.05, 0.14], 0),
        ..base
    }
}

/// Two views of 32 pixels with these operations between crop and normalisation.
fn cifar(scale: [f64; 2], strength: [f64; 4], second: &[Op]) -> Recipe {
    let ops = |end: &[Op]| {
        let mut ops = vec![crop(32, scale), flip(), jitter(strength, 0.8), gray()];
        ops.extend_from_slice(end);
        ops.push(normalize(CIFAR_MEAN, CIFAR_STD_PER_IMAGE));
        ops
    };
    let views = vec![view("global1", 1, ops(&[])), view("global2", 1, ops(second))];
    Recipe { views, ..Recipe::default() }
}

fn cifar10() -> RunConfig<DinoConfig> {
    let lightly = sgd(0.06, 0.0, 5e-4);
    RunConfig {
        method: DinoConfig {
            head: HeadConfig { output: 2048, layers: 2, batch_norm: true, ..HeadConfig::official() },
            local_crops: 0,
            momentum: 0.99,
            momentum_end: 0.99,
            freeze_last_layer: 0,
            ..defaults(ResNetConfig::cifar(18))
        },
        train: train(200, 512, None),
        optim: OptimConfig {
            lr_scaling: LrScaling::Linear { reference_batch: 128 },
            schedule: Schedule::CosinePerEpoch {},
            ..lightly
        },
        augment: cifar([0.08, 1.0], [0.4, 0.4, 0.4, 0.1], &[]),
        eval: EvalTransform::as_is(CIFAR_MEAN, CIFAR_STD_PER_IMAGE),
    }
}

fn cifar10_solo_learn() -> RunConfig<DinoConfig> {
    let lars = LarsConfig {
        weight_decay: 1e-6,
        trust_coefficient: 0.02,
        clip: true,
        ..LarsConfig::new(LarsVariant::SoloLearn)
    };
    let base = cifar10();
    RunConfig {
        method: DinoConfig {
            head: HeadConfig { output: 4096, ..HeadConfig::official() },
            momentum: 0.9995,
            momentum_end: 1.0,
            freeze_last_layer: 1,
            ..base.method
        },
        train: train(1000, 256, None),
        optim: OptimConfig {
            schedule: Schedule::WarmupCosine { warmup_epochs: 10.0, end: 0.0, start: 3e-5 },
            ..optim(0.3, 0.0, OptimizerConfig::Lars(lars))
        },
        augment: cifar([0.08, 1.0], [0.4, 0.4, 0.2, 0.1], &[solarize(0.2)]),
        ..base
    }
}

/// A quarter of torchvision's width and a small head with batch norm, two crops: for the small tiers.
fn narrow() -> DinoConfig {
    DinoConfig {
        head: HeadConfig { hidden: 512, output: 2048, layers: 2, batch_norm: true, ..HeadConfig::official() },
        local_crops: 0,
        momentum: 0.99,
        freeze_last_layer: 0,
        ..defaults(tiers::narrow_resnet())
    }
}

fn cifar10_small() -> RunConfig<DinoConfig> {
    tiers::cifar10_small(narrow(), 2)
}

/// Random networks see hardly more of a photograph's own in two of the tier's views than of another's, and DINO can only
/// strengthen what both views have in common. So crops are large here, the output is small, the teacher quick and sharp
/// and the centre that of the step before.
fn smoke() -> RunConfig<DinoConfig> {
    let base = narrow();
    let method = DinoConfig {
        head: HeadConfig { bottleneck: 64, output: 256, norm_last_layer: false, ..base.head },
        teacher_temperature: TeacherTemperature::constant(0.03),
        centre_momentum: 0.0,
        momentum: 0.97,
        momentum_end: 0.97,
        ..base
    };
    let run = tiers::smoke(method, 2);
    let views = vec![view("global", 2, tiers::light_ops(20, [0.7, 1.0], 0.0, tiers::SMOKE_NORM))];
    RunConfig {
        augment: Recipe { views, ..run.augment },
        optim: OptimConfig { lr: 0.15, ..run.optim },
        ..run
    }
}

/// A vision transformer of 4 blocks on patches of 4 pixels.
fn smoke_vit() -> RunConfig<DinoConfig> {
    let vit =
        VitConfig { image: 20, patch: 4, dim: 96, depth: 4, heads: 3, drop_path: 0.1, ..VitConfig::tiny(4) };
    let base = smoke();
    RunConfig { method: DinoConfig { backbone: vit.into(), ..base.method }, ..base }
}

#[cfg(test)]
mod tests {
    use contrastive_core::train::Progress;

    use super::*;

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> anyhow::Result<()> {
        contrastive_testing::assert_presets(&PRESETS, preset)
    }

    fn progress(step: u64, epochs: u64) -> Progress {
        Progress {
            seed: 0,
            step,
            total_steps: epochs * 1251,
            epoch: step / 1251,
            total_epochs: epochs,
            steps_per_epoch: 1251,
        }
    }

    #[test]
    fn the_papers_schedules() -> Result<()> {
        let run = preset("imagenet")?;
        let at = |step| progress(step, 800);
        let half = 800 * 1251 / 2;
        // 5e-4 for 256 samples, reached after ten epochs.
        assert!((run.lr(&at(12_510)) - 0.002).abs() < 1e-12);
        assert!((run.weight_decay(&at(half)).unwrap_or_default() - 0.22).abs() < 1e-12);
        assert!((run.method.momentum_at(&at(half)) - 0.998).abs() < 1e-12);
        assert_eq!(run.method.teacher_temperature.at(29), 0.07);
        assert_eq!(run.augment.view_count(), 12);
        Ok(())
    }

    #[test]
    fn class_token_and_positions_decay_and_biases_do_not() -> Result<()> {
        use contrastive_core::experiment::MethodConfig;
        let run = preset("smoke-vit")?;
        let method = run.method.build(0, &candle_core::Device::Cpu)?;
        let mut optimizer = run.optim.optimizer.build(method.params(), &run.method.groups())?;
        optimizer.set_weight_decay(0.5)?;
        // A step of zero gradients shows the decay alone.
        let ones = |value: &candle_core::Var| value.set(&value.ones_like()?);
        let entries = method.params().parameters();
        entries.iter().try_for_each(|entry| ones(&entry.var))?;
        let zeros = entries.iter().map(|e| Ok((e.name.clone(), e.var.zeros_like()?)));
        let zeros = contrastive_core::optim::Gradients::from_named(zeros.collect::<Result<_>>()?);
        optimizer.step(&zeros, 0.1)?;
        for entry in entries {
            let decayed = entry.var.flatten_all()?.to_vec1::<f32>()?[0] < 1.0;
            let expected = entry.var.dims().len() > 1;
            assert_eq!(decayed, expected, "{}", entry.name);
        }
        Ok(())
    }
}
