//! The method's own settings.

use candle_core::Device;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::BackboneConfig;
use contrastive_core::train::{Method, check_chunk};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::method::InvaSpread;

/// InvaSpread's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvaSpreadConfig {
    /// The encoder f.
    pub backbone: BackboneConfig,
    /// Width of the embedding, the output of the linear head: 128.
    pub output: usize,
    /// τ, above 0: 0.1.
    pub temperature: f64,
    /// The weight of the negatives in the denominator and in the spreading part (`negM`), above 0: 1 in the paper. Below
    /// 1 a "probability" can exceed 1 and then has no gradient.
    pub negative_weight: f64,
    /// Batch statistics over all ranks instead of each rank's own.
    pub sync_batch_norm: bool,
    /// Samples of a rank's batch that are encoded at a time, where the whole has no room in memory: the gradient of the
    /// whole batch for a second forward pass ([`contrastive_core::train::grad_cache`]). Batch statistics are then those
    /// of a chunk.
    #[serde(default)]
    pub chunk: Option<usize>,
}

impl MethodConfig for InvaSpreadConfig {
    fn name(&self) -> &'static str {
        "invaspread"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        check_chunk(self.chunk, at)?;
        for (key, value) in [("temperature", self.temperature), ("negative_weight", self.negative_weight)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::config(
                    format!("{at}.{key}"),
                    format!("must be above 0 and finite, got {value}"),
                ));
            }
        }
        if self.output == 0 {
            return Err(Error::config(format!("{at}.output"), "must be at least 1"));
        }
        Ok(())
    }

    fn views(&self) -> usize {
        2
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(InvaSpread::new(self.clone(), seed, device)?))
    }
}
