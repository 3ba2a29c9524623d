//! The budgets of the small tiers, the same for all methods: what a method adds to them is its own settings, and views
//! where it needs others.

use super::{OptimConfig, RunConfig};
use crate::augment::ops::{crop, gray, jitter, normalize, view};
use crate::augment::{CIFAR_MEAN, CIFAR_STD, EvalTransform, Op, Recipe};
use crate::nn::ResNetConfig;
use crate::optim::{LrScaling, OptimizerConfig, Schedule, SgdConfig};
use crate::train::TrainConfig;

/// A ResNet-18 for small images at a quarter of the width.
pub fn narrow_resnet() -> ResNetConfig {
    ResNetConfig { base_width: 16, ..ResNetConfig::cifar(18) }
}

/// Channel means and deviations that [`smoke`] normalises by.
pub const SMOKE_NORM: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.25; 3]);
/// The same of [`cifar10_small`].
pub const CIFAR_NORM: ([f32; 3], [f32; 3]) = (CIFAR_MEAN, CIFAR_STD);

/// SimCLR's augmentation at half its strength, without blur: crops of `scale` to `size` pixels, mirrored with
/// probability `flip`.
pub fn light_ops(size: usize, scale: [f64; 2], flip: f64, (mean, std): ([f32; 3], [f32; 3])) -> Vec<Op> {
    let flip = Op::RandomFlip { p: flip };
    vec![crop(size, scale), flip, jitter([0.4, 0.4, 0.4, 0.1], 0.8), gray(), normalize(mean, std)]
}

/// `count` such views of the whole scale range.
fn light_views(count: usize, size: usize, flip: f64, norm: ([f32; 3], [f32; 3])) -> Recipe {
    Recipe { views: vec![view("view", count, light_ops(size, [0.2, 1.0], flip, norm))], ..Recipe::default() }
}

/// Ten epochs on CIFAR-10 (10,000 images in the tier `small`): batch 256, SGD 0.06·B/128 with a cosine.
pub fn cifar10_small<M>(method: M, views: usize) -> RunConfig<M> {
    RunConfig {
        method,
        train: TrainConfig { epochs: 10, batch_size: 256, ..TrainConfig::default() },
        optim: OptimConfig {
            lr: 0.06,
            lr_scaling: LrScaling::Linear { reference_batch: 128 },
            schedule: Schedule::WarmupCosine { warmup_epochs: 0.0, end: 0.0, start: 0.0 },
            optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay: 5e-4, ..SgdConfig::default() }),
            weight_decay_end: None,
        },
        augment: light_views(views, 32, 0.5, CIFAR_NORM),
        eval: EvalTransform::as_is(CIFAR_NORM.0, CIFAR_NORM.1),
    }
}

/// Sixteen epochs on the embedded sign-language digits: batch 96, SGD 0.1·B/128 with a cosine.
pub fn smoke<M>(method: M, views: usize) -> RunConfig<M> {
    let base = cifar10_small(method, views);
    RunConfig {
        train: TrainConfig { epochs: 16, batch_size: 96, ..base.train },
        // Views of 20 pixels of the 32-pixel photographs cost 0.4 of full ones, and show a hand about as large as the
        // whole photograph does. A mirrored hand can be another sign, so no flip.
        augment: light_views(views, 20, 0.0, SMOKE_NORM),
        eval: EvalTransform::as_is(SMOKE_NORM.0, SMOKE_NORM.1),
        optim: OptimConfig { lr: 0.1, ..base.optim },
        ..base
    }
}
