//! The method's own settings.

use candle_core::Device;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::BackboneConfig;
use contrastive_core::optim::ParamGroups;
use contrastive_core::train::{Method, check_chunk};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::method::SimSiam;
use crate::weights::PREDICTOR;

/// SimSiam's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimSiamConfig {
    /// The backbone of the encoder f.
    pub backbone: BackboneConfig,
    /// The projector, the encoder's last part, and the predictor h.
    pub head: HeadConfig,
    /// What the predictor is. Without a trained one the representation does not learn (the paper's table 1).
    pub predictor: Predictor,
    /// The predictor's learning rate in every step, outside the schedule, in absolute terms: the base rate times B/256
    /// in the paper. It does not follow `optim.lr` or `train.batch_size`; set them together. None lets the predictor
    /// follow the schedule like everything else.
    pub predictor_lr: Option<f64>,
    /// Whether the projections that are predicted are cut from the graph. Where not, the representation collapses (the
    /// paper's figure 2).
    pub stop_gradient: bool,
    /// Batch statistics over all ranks (the paper) instead of each rank's own.
    pub sync_batch_norm: bool,
    /// Samples of a rank's batch that are trained on at a time, where the whole has no room in memory: losses and
    /// gradients of the chunks are averaged ([`contrastive_core::train::average_chunks`]). Batch statistics are then
    /// those of a chunk.
    #[serde(default)]
    pub chunk: Option<usize>,
}

/// What the predictor h is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Predictor {
    /// Trained with the encoder.
    Trained,
    /// Left as it began (the paper's table 1 b).
    Fixed,
    /// The identity (the paper's table 1 a).
    None,
}

/// Projector and predictor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Linear layers of the projector: 3 on ImageNet, 2 on CIFAR-10. Batch norm follows each, ReLU each but the last.
    pub layers: usize,
    /// Width of the projector's hidden layers; as wide as the features where absent.
    pub hidden: Option<usize>,
    /// Width of projections and predictions.
    pub output: usize,
    /// Whether the projector's last batch norm has gamma and beta: the paper's does, the official code's does not.
    pub last_affine: bool,
    /// Width of the predictor's hidden layer. Batch norm and ReLU follow it; the layer behind them has a bias and
    /// nothing after it.
    pub predictor_hidden: usize,
}

impl HeadConfig {
    /// Three layers of the features' width to 2048, predictor 2048-512-2048.
    pub fn official(last_affine: bool) -> Self {
        Self { layers: 3, hidden: None, output: 2048, last_affine, predictor_hidden: 512 }
    }
}

impl MethodConfig for SimSiamConfig {
    fn name(&self) -> &'static str {
        "simsiam"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        check_chunk(self.chunk, at)?;
        let positive = [
            ("layers", self.head.layers),
            ("hidden", self.head.hidden.unwrap_or(1)),
            ("output", self.head.output),
            ("predictor_hidden", self.head.predictor_hidden),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(Error::config(format!("{at}.head.{key}"), "must be at least 1"));
            }
        }
        match self.predictor_lr {
            Some(lr) if !(lr >= 0.0 && lr.is_finite()) => {
                let reason = format!("must be at least 0 and finite, got {lr}");
                Err(Error::config(format!("{at}.predictor_lr"), reason))
            }
            _ => Ok(()),
        }
    }

    fn views(&self) -> usize {
        2
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn groups(&self) -> ParamGroups {
        let predictor =
            |name: &str, _: &[usize]| name.strip_prefix(PREDICTOR).is_some_and(|rest| rest.starts_with('.'));
        let groups = ParamGroups::new();
        let groups = match self.predictor_lr {
            Some(lr) => groups.fixed_lr(lr, predictor),
            None => groups,
        };
        if self.predictor == Predictor::Fixed { groups.frozen(predictor) } else { groups }
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(SimSiam::new(self.clone(), seed, device)?))
    }
}
