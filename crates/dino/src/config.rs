//! The method's own settings.

use candle_core::Device;
use contrastive_core::experiment::{MethodConfig, Passes};
use contrastive_core::nn::{BackboneConfig, VitConfig};
use contrastive_core::optim::{ParamGroups, cosine, is_bias};
use contrastive_core::train::{Method, Progress};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::method::Dino;

/// DINO's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DinoConfig {
    /// The backbone f of student and teacher. Stochastic depth (`drop_path`) is for the student only.
    pub backbone: BackboneConfig,
    /// The head h.
    pub head: HeadConfig,
    /// Local views beside the two global ones; the recipe makes them after those.
    pub local_crops: usize,
    /// τ_s, above 0.
    pub student_temperature: f64,
    /// τ_t: sharpening.
    pub teacher_temperature: TeacherTemperature,
    /// Whether a centre is subtracted from the teacher's outputs. Without, one dimension comes to dominate.
    pub centre: bool,
    /// How much of the centre stays in a step, in `[0, 1)`.
    pub centre_momentum: f64,
    /// How much of the teacher stays in the first step, in `[0, 1]`. With 0 here and in `momentum_end` the teacher is
    /// the student of the step before ("no momentum" in the paper's table 7).
    pub momentum: f64,
    /// Where the momentum's cosine ends, in `[0, 1]`.
    pub momentum_end: f64,
    /// Epochs in which the head's last layer stays as it is.
    pub freeze_last_layer: u64,
    /// Batch statistics over all ranks instead of each rank's own, where there is batch norm.
    pub sync_batch_norm: bool,
}

/// The temperature of the teacher's softmax: a line from `start` to `end` over `warmup_epochs` epochs, changing at
/// epochs, then `end` (numpy's `linspace`: the last epoch of the warm-up has `end` already).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherTemperature {
    /// The first epoch's, above 0.
    pub start: f64,
    /// The last epoch's, above 0. For most runs anything above 0.07 is unstable.
    pub end: f64,
    /// Length of the warm-up; 0 for none.
    pub warmup_epochs: u64,
}

impl TeacherTemperature {
    /// The same temperature in every epoch.
    pub fn constant(temperature: f64) -> Self {
        Self { start: temperature, end: temperature, warmup_epochs: 0 }
    }

    /// The temperature of an epoch.
    pub fn at(&self, epoch: u64) -> f64 {
        match self.warmup_epochs {
            warmup if epoch >= warmup => self.end,
            1 => self.start,
            warmup => self.start + (self.end - self.start) * epoch as f64 / (warmup - 1) as f64,
        }
    }
}

/// The head h: a perceptron, l2 normalisation, and a layer with unit weight rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Width of the embedding that is normalised.
    pub bottleneck: usize,
    /// K, the width of the output: dimensions of the distributions that are compared.
    pub output: usize,
    /// Linear layers up to the bottleneck.
    pub layers: usize,
    /// Batch norm behind the hidden layers (`use_bn_in_head`): for convolutional backbones.
    pub batch_norm: bool,
    /// Whether the last layer is weight-normed: `W = g v / |v|` by rows.
    pub weight_norm: bool,
    /// Whether g stays 1. To train it is a little better and can make training unstable.
    pub norm_last_layer: bool,
}

impl HeadConfig {
    /// The official code's defaults: 2048-2048-256, K = 65536, no batch norm, g stays 1.
    pub fn official() -> Self {
        Self {
            hidden: 2048,
            bottleneck: 256,
            output: 65_536,
            layers: 3,
            batch_norm: false,
            weight_norm: true,
            norm_last_layer: true,
        }
    }
}

impl DinoConfig {
    /// The momentum of the teacher after a step: a cosine over the steps.
    pub fn momentum_at(&self, progress: &Progress) -> f64 {
        cosine(self.momentum, self.momentum_end, progress.step as f64, progress.total_steps as f64)
    }

    /// The teacher's backbone: the student's, without stochastic depth.
    pub fn teacher_backbone(&self) -> BackboneConfig {
        match self.backbone {
            BackboneConfig::Vit(vit) => VitConfig { drop_path: 0.0, ..vit }.into(),
            other => other,
        }
    }
}

impl MethodConfig for DinoConfig {
    fn name(&self) -> &'static str {
        "dino"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        let TeacherTemperature { start, end, .. } = self.teacher_temperature;
        for (key, value) in [
            ("student_temperature", self.student_temperature),
            ("teacher_temperature.start", start),
            ("teacher_temperature.end", end),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                let reason = format!("must be above 0 and finite, got {value}");
                return Err(Error::config(format!("{at}.{key}"), reason));
            }
        }
        if !(0.0..1.0).contains(&self.centre_momentum) {
            let reason = format!("must be in [0, 1), got {}", self.centre_momentum);
            return Err(Error::config(format!("{at}.centre_momentum"), reason));
        }
        for (key, value) in [("momentum", self.momentum), ("momentum_end", self.momentum_end)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::config(format!("{at}.{key}"), format!("must be in [0, 1], got {value}")));
            }
        }
        let positive = [
            ("hidden", self.head.hidden),
            ("bottleneck", self.head.bottleneck),
            ("output", self.head.output),
            ("layers", self.head.layers),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(Error::config(format!("{at}.head.{key}"), "must be at least 1"));
            }
        }
        if self.head.norm_last_layer && !self.head.weight_norm {
            let reason = "must be false without head.weight_norm: there is no g to hold";
            return Err(Error::config(format!("{at}.head.norm_last_layer"), reason));
        }
        if self.local_crops > 254 {
            let reason = format!("must be at most 254, got {}", self.local_crops);
            return Err(Error::config(format!("{at}.local_crops"), reason));
        }
        Ok(())
    }

    fn views(&self) -> usize {
        2 + self.local_crops
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn passes(&self) -> Passes {
        Passes { trained: (0..self.views()).collect(), momentum: vec![0, 1] }
    }

    /// Neither biases nor one-dimensional parameters decay. Class token and positions do: they have three dimensions.
    fn groups(&self) -> ParamGroups {
        ParamGroups::new().no_decay(|name, shape| is_bias(name, shape) || shape.len() == 1)
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(Dino::new(self.clone(), seed, device)?))
    }
}
