//! The method's own settings: one table for v1 and v2, another for v3, told apart by `version`.

use candle_core::Device;
use contrastive_core::experiment::{MethodConfig, Passes};
use contrastive_core::nn::BackboneConfig;
use contrastive_core::optim::ParamGroups;
use contrastive_core::train::{Method, check_chunk};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::method::Moco;
use crate::v3::MocoV3;
use crate::weights::is_fixed;

/// MoCo's settings; in a file, the table's `version` is `"v1"`, `"v2"` or `"v3"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "version", rename_all = "kebab-case")]
pub enum MocoConfig {
    /// A queue of keys and a linear head (He et al. 2020).
    V1(QueueConfig),
    /// The same with a hidden layer in the head (Chen, Fan et al. 2020); augmentation and schedule stand in the recipe.
    V2(QueueConfig),
    /// No queue: the batch's keys, a predictor, both directions (Chen, Xie & He 2021).
    V3(V3Config),
}

/// Settings of v1 and v2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// The encoder without its head; query and key encoder are built alike.
    pub backbone: BackboneConfig,
    /// The last layers of query and key encoder.
    pub head: HeadConfig,
    /// τ, above 0: 0.07 in v1, 0.2 in v2, 0.1 on CIFAR-10.
    pub temperature: f64,
    /// K, the keys in the queue; at least as many as a step brings, and well below the number of samples.
    pub queue: usize,
    /// m of the key encoder's moving average, in `[0, 1]`: 0.999, on CIFAR-10 0.99. With 0, training fails.
    pub momentum: f64,
    /// Both views are queries and keys: the two losses are added, and both sets of keys enter the queue (the authors'
    /// CIFAR-10 notebook, MoCo v2+). Without, the first view is the query and the second the key.
    pub symmetric: bool,
    /// Keys see batch statistics of other samples than their queries (section 3.3).
    pub shuffle: bool,
    /// Groups of all ranks' batch that batch norm treats as devices of their own, at least 1. The paper has 8 devices:
    /// 8 groups on one rank are one on each of eight.
    pub bn_groups: usize,
}

/// The head of v1 and v2. Layers have biases and no batch norm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width of the hidden layer: v2 has one (2048 on ResNet-50), v1 has none.
    pub hidden: Option<usize>,
    /// Width of the embedding: 128.
    pub output: usize,
}

/// Settings of v3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct V3Config {
    /// The encoder without its projector.
    pub backbone: BackboneConfig,
    /// Projector and predictor.
    pub heads: HeadsConfig,
    /// τ, above 0: 1.0 for ResNets, 0.2 for transformers.
    pub temperature: f64,
    /// m of the momentum encoder in the first step, in `[0, 1]`; a cosine takes it to 1 at the end.
    pub momentum: f64,
    /// What a transformer needs to train stably; stands where the backbone is one.
    pub transformer: Option<TransformerConfig>,
    /// Samples of a rank's batch that are encoded at a time, where the whole has no room in memory: the gradient of the
    /// whole batch for a second forward pass ([`contrastive_core::train::grad_cache`]). Batch statistics are then those
    /// of a chunk.
    #[serde(default)]
    pub chunk: Option<usize>,
}

/// Projector and predictor of v3. No linear layer has a bias; all batch statistics are taken over all ranks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadsConfig {
    /// Width of the hidden layers of both: 4096.
    pub hidden: usize,
    /// Width of the embedding: 256.
    pub output: usize,
    /// Linear layers of the projector: 2 on ResNets, 3 on transformers. (The predictor has 2.)
    pub projector_layers: usize,
    /// Without the predictor, the projector's outputs are the queries (an ablation).
    pub predictor: bool,
    /// Whether the predictor ends in batch norm: on transformers.
    pub predictor_norm: bool,
    /// Without, the heads have no batch norm at all (an ablation).
    pub batch_norm: bool,
}

impl HeadsConfig {
    /// The official code's for ResNets.
    pub fn resnet() -> Self {
        let (hidden, output) = (4096, 256);
        Self { hidden, output, projector_layers: 2, predictor: true, predictor_norm: false, batch_norm: true }
    }

    /// The official code's for transformers.
    pub fn transformer() -> Self {
        Self { projector_layers: 3, predictor_norm: true, ..Self::resnet() }
    }
}

/// Settings of v3 that only a transformer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// The patch projection stays as it was drawn (section 4.2).
    pub frozen_patches: bool,
    /// Fixed 2-D sine and cosine positions; without, positions are learned (an ablation).
    pub sin_cos: bool,
}

/// Refuses a value outside its range; NaN is outside every range.
fn require(ok: bool, at: &str, key: &str, reason: impl Into<String>) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::config(format!("{at}.{key}"), reason)) }
}

/// What v1, v2 and v3 have in common.
fn check_common(at: &str, backbone: &BackboneConfig, temperature: f64, momentum: f64) -> Result<()> {
    backbone.check(&format!("{at}.backbone"))?;
    let reason = "must be 0: no version of MoCo has stochastic depth";
    require(!backbone.is_stochastic(), at, "backbone.drop_path", reason)?;
    let positive = temperature > 0.0 && temperature.is_finite();
    require(positive, at, "temperature", format!("must be above 0 and finite, got {temperature}"))?;
    require((0.0..=1.0).contains(&momentum), at, "momentum", format!("must be in [0, 1], got {momentum}"))
}

impl QueueConfig {
    fn check(&self, at: &str, hidden: bool) -> Result<()> {
        check_common(at, &self.backbone, self.temperature, self.momentum)?;
        match self.head.hidden {
            Some(_) => require(hidden, at, "head.hidden", "v1 has no hidden layer; version v2 has")?,
            None => require(!hidden, at, "head.hidden", "v2 has a hidden layer: its width is missing")?,
        }
        let positive = [
            ("head.hidden", self.head.hidden.unwrap_or(1)),
            ("head.output", self.head.output),
            ("queue", self.queue),
            ("bn_groups", self.bn_groups),
        ];
        positive.iter().try_for_each(|&(key, value)| require(value >= 1, at, key, "must be at least 1"))
    }
}

impl V3Config {
    fn check(&self, at: &str) -> Result<()> {
        check_chunk(self.chunk, at)?;
        check_common(at, &self.backbone, self.temperature, self.momentum)?;
        let heads = [
            ("hidden", self.heads.hidden),
            ("output", self.heads.output),
            ("projector_layers", self.heads.projector_layers),
        ];
        for (key, value) in heads {
            require(value >= 1, at, &format!("heads.{key}"), "must be at least 1")?;
        }
        match (&self.backbone, &self.transformer) {
            (BackboneConfig::Vit(vit), Some(transformer)) => {
                let ok = !transformer.sin_cos || vit.dim.is_multiple_of(4);
                require(ok, at, "backbone.dim", "must be a multiple of 4 for sine and cosine positions")
            }
            (BackboneConfig::Vit(_), None) => {
                require(false, at, "transformer", "is missing: the backbone is one")
            }
            (_, Some(_)) => require(false, at, "transformer", "is set, but the backbone is none"),
            (_, None) => Ok(()),
        }
    }
}

impl MocoConfig {
    fn network(&self) -> &BackboneConfig {
        match self {
            Self::V1(config) | Self::V2(config) => &config.backbone,
            Self::V3(config) => &config.backbone,
        }
    }
}

impl MethodConfig for MocoConfig {
    fn name(&self) -> &'static str {
        match self {
            Self::V1(_) => "moco-v1",
            Self::V2(_) => "moco-v2",
            Self::V3(_) => "moco-v3",
        }
    }

    fn check(&self, at: &str) -> Result<()> {
        match self {
            Self::V1(config) => config.check(at, false),
            Self::V2(config) => config.check(at, true),
            Self::V3(config) => config.check(at),
        }
    }

    fn views(&self) -> usize {
        2
    }

    fn backbone(&self) -> BackboneConfig {
        *self.network()
    }

    fn passes(&self) -> Passes {
        match self {
            Self::V1(config) | Self::V2(config) if !config.symmetric => {
                Passes { trained: vec![0], momentum: vec![1] }
            }
            _ => Passes { trained: vec![0, 1], momentum: vec![0, 1] },
        }
    }

    fn groups(&self) -> ParamGroups {
        match self {
            Self::V3(V3Config { transformer: Some(transformer), .. }) => {
                let transformer = *transformer;
                ParamGroups::new().frozen(move |name, _| is_fixed(&transformer, name))
            }
            _ => ParamGroups::new(),
        }
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        self.check("method")?;
        Ok(match self {
            Self::V1(config) | Self::V2(config) => {
                Box::new(Moco::new(self.name(), config.clone(), seed, device)?)
            }
            Self::V3(config) => Box::new(MocoV3::new(config.clone(), seed, device)?),
        })
    }
}
