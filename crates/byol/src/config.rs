//! The method's own settings.

use candle_core::Device;
use contrastive_core::experiment::{MethodConfig, Passes};
use contrastive_core::nn::BackboneConfig;
use contrastive_core::optim::cosine;
use contrastive_core::train::{Method, Progress, check_chunk};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::method::Byol;

/// BYOL's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByolConfig {
    /// The encoder f.
    pub backbone: BackboneConfig,
    /// The projector g and the predictor q.
    pub head: HeadConfig,
    /// Whether there is a predictor. Without one the representation collapses (the paper's ablations).
    pub predictor: bool,
    /// τ of the first step, in `[0, 1]`: 0.996 in the paper. 0 makes the target the online network of the step before,
    /// 1 leaves it as it began (the paper's table 5).
    pub momentum: f64,
    /// How τ moves over the run.
    pub momentum_schedule: MomentumSchedule,
    /// How the target network begins.
    pub target: TargetInit,
    /// The scale of the loss.
    pub loss: LossForm,
    /// Batch statistics over all ranks (the official code) instead of each rank's own.
    pub sync_batch_norm: bool,
    /// Samples of a rank's batch that are trained on at a time, where the whole has no room in memory: losses and
    /// gradients of the chunks are averaged ([`contrastive_core::train::average_chunks`]). Batch statistics are then
    /// those of a chunk.
    #[serde(default)]
    pub chunk: Option<usize>,
}

/// How τ moves over the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MomentumSchedule {
    /// `τ = 1 − (1 − τ₀)(cos(πk/K) + 1)/2`: to 1 at the end of the run (the paper).
    Cosine,
    /// The same in every step (the paper's table 5, lightly's benchmark).
    Constant,
}

/// How the target network begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetInit {
    /// As a copy of the online network (the paper).
    Copy,
    /// With draws of its own (the official code, which reports no difference).
    Fresh,
}

/// The scale of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossForm {
    /// Eq. 2 in both directions, `4 − 2 cos − 2 cos`, in 0..8 (paper and official code). The paper's pseudo-code leaves
    /// out the constant, which has no gradient.
    Paper,
    /// `−(cos + cos)/2`, in −1..1: a quarter of it (SimSiam's scale, and lightly's).
    Cosine,
}

/// Projector and predictor: linear, batch norm, ReLU, linear; nothing behind the last layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width of the projector's hidden layer.
    pub hidden: usize,
    /// Width of projections and predictions.
    pub output: usize,
    /// Width of the predictor's hidden layer.
    pub predictor_hidden: usize,
    /// Whether the last layers have a bias: the paper's pseudo-code does, the official code does not.
    pub last_bias: bool,
    /// The initialiser.
    pub style: HeadStyle,
}

impl HeadConfig {
    /// 4096 to 256, twice.
    pub fn official(last_bias: bool) -> Self {
        let style = HeadStyle::Official;
        Self { hidden: 4096, output: 256, predictor_hidden: 4096, last_bias, style }
    }
}

/// The heads' initialiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadStyle {
    /// Haiku's: weights from a normal of deviation `1/√inputs` cut at two of them, biases 0.
    Official,
    /// PyTorch's.
    Torch,
}

impl ByolConfig {
    /// τ of a step.
    pub fn momentum_at(&self, progress: &Progress) -> f64 {
        match self.momentum_schedule {
            MomentumSchedule::Cosine => {
                cosine(self.momentum, 1.0, progress.step as f64, progress.total_steps as f64)
            }
            MomentumSchedule::Constant => self.momentum,
        }
    }
}

impl MethodConfig for ByolConfig {
    fn name(&self) -> &'static str {
        "byol"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        check_chunk(self.chunk, at)?;
        if !(0.0..=1.0).contains(&self.momentum) {
            let reason = format!("must be in [0, 1], got {}", self.momentum);
            return Err(Error::config(format!("{at}.momentum"), reason));
        }
        let positive = [
            ("hidden", self.head.hidden),
            ("output", self.head.output),
            ("predictor_hidden", self.head.predictor_hidden),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(Error::config(format!("{at}.head.{key}"), "must be at least 1"));
            }
        }
        Ok(())
    }

    fn views(&self) -> usize {
        2
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn passes(&self) -> Passes {
        Passes { trained: vec![0, 1], momentum: vec![0, 1] }
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(Byol::new(self.clone(), seed, device)?))
    }
}
