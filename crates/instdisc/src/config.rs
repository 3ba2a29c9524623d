//! The method's own settings.

use candle_core::Device;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::BackboneConfig;
use contrastive_core::train::Method;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::method::InstDisc;

/// InstDisc's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstDiscConfig {
    /// The encoder f.
    pub backbone: BackboneConfig,
    /// Width of the embedding, the output of the linear head: 128.
    pub output: usize,
    /// τ, above 0: 0.07 on ImageNet, 0.1 on CIFAR-10.
    pub temperature: f64,
    /// The form of the loss.
    pub loss: LossForm,
    /// Rows of the bank that each sample is compared with beside its own, drawn anew in every step (m in the paper, K in
    /// the code): 4096 on ImageNet. 0, for the softmax alone, means the whole bank: CIFAR-10's setting.
    pub negatives: usize,
    /// What stays of a row of the bank at an update, in `[0, 1)`: 0.5.
    pub bank_momentum: f64,
    /// λ, at least 0: the weight of the paper's proximal term (eq. 10), for which the official code has the bank's
    /// momentum instead. 0 leaves it out.
    pub proximal: f64,
    /// Batch statistics over all ranks instead of each rank's own.
    pub sync_batch_norm: bool,
}

/// The form of the loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossForm {
    /// Noise-contrastive estimation with a constant Z (section 3.2 of the paper).
    Nce,
    /// The softmax over the bank or the drawn rows: eq. 2, or InfoNCE.
    Softmax,
}

impl MethodConfig for InstDiscConfig {
    fn name(&self) -> &'static str {
        "instdisc"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        let ranges = [
            ("temperature", self.temperature, self.temperature > 0.0, "above 0 and finite"),
            ("bank_momentum", self.bank_momentum, (0.0..1.0).contains(&self.bank_momentum), "in [0, 1)"),
            ("proximal", self.proximal, self.proximal >= 0.0, "at least 0 and finite"),
        ];
        for (key, value, ok, range) in ranges {
            if !(ok && value.is_finite()) {
                return Err(Error::config(format!("{at}.{key}"), format!("must be {range}, got {value}")));
            }
        }
        if self.output == 0 {
            return Err(Error::config(format!("{at}.output"), "must be at least 1"));
        }
        if self.loss == LossForm::Nce && self.negatives == 0 {
            return Err(Error::config(format!("{at}.negatives"), "must be at least 1 for the loss `nce`"));
        }
        Ok(())
    }

    fn views(&self) -> usize {
        1
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(InstDisc::new(self.clone(), seed, device)?))
    }
}
