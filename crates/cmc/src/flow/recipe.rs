//! Presets of runs on videos.

use contrastive_core::Result;
use contrastive_core::experiment::{OptimConfig, tiers, unknown_preset};
use contrastive_core::nn::{AlexNetConfig, HalfConfig, SplitConfig};
use contrastive_core::optim::{AdamConfig, LrScaling, OptimizerConfig, Schedule, SgdConfig};
use contrastive_core::train::TrainConfig;

use super::video::{MomentConfig, Other, VideoRun};
use crate::config::{CmcConfig, ContrastConfig, Form, Graph};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 4] = [
    (
        "ucf101-motion",
        "the paper's D: CaffeNets of a frame and of ten fields of flow; the rest as for images",
    ),
    ("ucf101-frames", "the paper's V: CaffeNets of a frame and of a later one; the rest as for images"),
    ("small-motion", "narrow ResNets of 32 pixels, for a few clips: minutes on two cores"),
    ("small-frames", "the same for a frame and a later one"),
];

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<VideoRun> {
    match name {
        "ucf101-motion" => Ok(ucf101(Other::Motion)),
        "ucf101-frames" => Ok(ucf101(Other::Later)),
        "small-motion" => Ok(small(Other::Motion)),
        "small-frames" => Ok(small(Other::Later)),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

fn method(other: Other, half: HalfConfig, temperature: f64, form: Form) -> CmcConfig {
    CmcConfig {
        backbone: SplitConfig { channels: other.channels(), half }.into(),
        output: 128,
        contrast: ContrastConfig { temperature, form, bank_momentum: 0.5, graph: Graph::Core },
        sync_batch_norm: false,
    }
}

/// The paper says which networks and views; optimiser, batch and negatives are those of its AlexNets on images.
fn ucf101(other: Other) -> VideoRun {
    let caffe_net = HalfConfig::Alexnet(AlexNetConfig::whole(3));
    VideoRun {
        method: method(other, caffe_net, 0.07, Form::Nce { negatives: 16_384 }),
        train: TrainConfig { epochs: 240, batch_size: 256, ..TrainConfig::default() },
        optim: OptimConfig {
            lr: 0.03,
            lr_scaling: LrScaling::None,
            schedule: Schedule::Step { milestones: vec![120, 160, 200], gamma: 0.1 },
            optimizer: OptimizerConfig::Sgd(SgdConfig { weight_decay: 1e-4, ..SgdConfig::default() }),
            weight_decay_end: None,
        },
        other,
        moments: MomentConfig { per_clip: 4, later: 10, shorter: 256 },
        side: 224,
    }
}

fn small(other: Other) -> VideoRun {
    let narrow = HalfConfig::Resnet(tiers::narrow_resnet());
    let method = CmcConfig { sync_batch_norm: true, ..method(other, narrow, 0.1, Form::InBatch {}) };
    VideoRun {
        method,
        train: TrainConfig { epochs: 20, batch_size: 64, ..TrainConfig::default() },
        optim: OptimConfig {
            lr: 2e-3,
            lr_scaling: LrScaling::None,
            schedule: Schedule::WarmupCosine { warmup_epochs: 0.0, end: 0.0, start: 0.0 },
            optimizer: OptimizerConfig::Adam(AdamConfig::default()),
            weight_decay_end: None,
        },
        other,
        moments: MomentConfig { per_clip: 1, later: 4, shorter: 36 },
        side: 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_both_views_have_networks() -> Result<()> {
        for (name, _) in PRESETS {
            let run = preset(name)?;
            run.check()?;
            let other = VideoRun { other: Other::Later, ..run.clone() };
            assert_eq!(other.check().is_ok(), run.other == Other::Later, "{name}");
        }
        assert!(preset("nonsense").is_err());
        Ok(())
    }
}
