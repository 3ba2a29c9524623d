//! The method's own settings.

use candle_core::Device;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::BackboneConfig;
use contrastive_core::train::{Method, check_chunk};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::method::SimClr;

/// SimCLR's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimClrConfig {
    /// Whose name stands in tables; what v2 changed stands in `head` and `backbone`.
    #[serde(default)]
    pub version: Version,
    /// The encoder f.
    pub backbone: BackboneConfig,
    /// The head g.
    pub head: HeadConfig,
    /// τ, above 0: 0.1 on ImageNet, 0.5 on CIFAR-10.
    pub temperature: f64,
    /// The scale of the loss.
    pub loss: LossForm,
    /// Batch statistics over all ranks (section 2.2 of the paper) instead of each rank's own.
    pub sync_batch_norm: bool,
    /// Samples of a rank's batch that are encoded at a time, where the whole has no room in memory: the gradient of the
    /// whole batch for a second forward pass ([`contrastive_core::train::grad_cache`]). Batch statistics are then those
    /// of a chunk.
    #[serde(default)]
    pub chunk: Option<usize>,
}

/// Which paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Version {
    /// A head of two layers, thrown away afterwards.
    #[default]
    V1,
    /// A head of three layers, the first of which is kept for fine-tuning; larger networks.
    V2,
}

/// The scale of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossForm {
    /// The mean over the 2N views (algorithm 1).
    Paper,
    /// The two directions' means, added: twice the paper's.
    Repository,
}

/// The head g.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Width of the hidden layers; as wide as the features where absent.
    pub hidden: Option<usize>,
    /// Width of the embedding.
    pub output: usize,
    /// Linear layers: 2 in v1, 3 in v2.
    pub layers: usize,
    /// Batch norm and initialisers.
    pub style: HeadStyle,
}

impl HeadConfig {
    /// Two layers (three in v2), as wide as the features, to 128: the papers'.
    pub fn official(version: Version) -> Self {
        let layers = match version {
            Version::V1 => 2,
            Version::V2 => 3,
        };
        Self { hidden: None, output: 128, layers, style: HeadStyle::Official }
    }

    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        let positive =
            [("hidden", self.hidden.unwrap_or(1)), ("output", self.output), ("layers", self.layers)];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(Error::config(format!("{at}.{key}"), "must be at least 1")),
            None => Ok(()),
        }
    }
}

/// Details of the head that implementations differ in. No layer has a bias; batch norm follows every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadStyle {
    /// The official code: last batch norm with gamma and without beta, weights N(0, 0.01²).
    Official,
    /// lightly's: gamma and beta everywhere, PyTorch's initialiser.
    Torch,
}

impl MethodConfig for SimClrConfig {
    fn name(&self) -> &'static str {
        match self.version {
            Version::V1 => "simclr",
            Version::V2 => "simclr-v2",
        }
    }

    fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let reason = format!("must be above 0 and finite, got {}", self.temperature);
            return Err(Error::config(format!("{at}.temperature"), reason));
        }
        check_chunk(self.chunk, at)?;
        self.head.check(&format!("{at}.head"))
    }

    fn views(&self) -> usize {
        2
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(SimClr::new(self.clone(), seed, device)?))
    }
}
