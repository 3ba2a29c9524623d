//! The method's own settings.

use candle_core::Device;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::BackboneConfig;
use contrastive_core::train::Method;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::method::Cmc;

/// Settings of CMC on the two sides of a colour split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmcConfig {
    /// The encoders, of kind `split`: one for brightness, one for colour.
    pub backbone: BackboneConfig,
    /// Width of the embeddings, the outputs of the linear heads: 128.
    pub output: usize,
    /// What is told apart, and how.
    pub contrast: ContrastConfig,
    /// Batch statistics over all ranks instead of each rank's own.
    pub sync_batch_norm: bool,
}

/// The contrastive objective between views.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContrastConfig {
    /// τ, above 0: 0.07, and 0.1 on STL-10.
    pub temperature: f64,
    /// Which other samples a view is compared with, and how.
    pub form: Form,
    /// What stays of a row of a bank at an update, in `[0, 1)`: 0.5.
    pub bank_momentum: f64,
    /// Which views are compared with which. For two views it makes no difference.
    pub graph: Graph,
}

/// The form of the loss between two views; in a file, the table's `kind` is `"nce"`, `"softmax"` or `"in-batch"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Form {
    /// Noise-contrastive estimation over the other view's bank, with a constant Z for each direction.
    Nce {
        /// Rows of the bank beside a sample's own, drawn anew in every step, at least 1.
        negatives: usize,
    },
    /// The softmax over the own and the drawn rows of the other view's bank (InfoNCE).
    Softmax {
        /// Rows drawn; 0 means the whole bank.
        negatives: usize,
    },
    /// The softmax over the other view of the batch, of all ranks. There is no bank.
    InBatch {},
}

/// Which pairs of views are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Graph {
    /// The first view with each other: M − 1 pairs (section 3.3 of the paper, eq. 8).
    Core,
    /// Each with each: M(M − 1)/2 pairs (eq. 9).
    Full,
}

impl Graph {
    /// The pairs among so many views, the smaller index first.
    pub fn pairs(self, views: usize) -> Vec<(usize, usize)> {
        let all = (0..views).flat_map(|i| (i + 1..views).map(move |j| (i, j)));
        all.filter(|&(i, _)| self == Self::Full || i == 0).collect()
    }
}

impl ContrastConfig {
    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        let ranges = [
            ("temperature", self.temperature, self.temperature > 0.0, "above 0 and finite"),
            ("bank_momentum", self.bank_momentum, (0.0..1.0).contains(&self.bank_momentum), "in [0, 1)"),
        ];
        for (key, value, ok, range) in ranges {
            if !(ok && value.is_finite()) {
                return Err(Error::config(format!("{at}.{key}"), format!("must be {range}, got {value}")));
            }
        }
        if self.form == (Form::Nce { negatives: 0 }) {
            return Err(Error::config(format!("{at}.form.negatives"), "must be at least 1 for `nce`"));
        }
        Ok(())
    }
}

impl MethodConfig for CmcConfig {
    fn name(&self) -> &'static str {
        "cmc"
    }

    fn check(&self, at: &str) -> Result<()> {
        if !matches!(self.backbone, BackboneConfig::Split(_)) {
            let reason = format!("must be of kind `split`, one network for each view; got {}", self.backbone);
            return Err(Error::config(format!("{at}.backbone.kind"), reason));
        }
        self.backbone.check(&format!("{at}.backbone"))?;
        self.contrast.check(&format!("{at}.contrast"))?;
        if self.output == 0 {
            return Err(Error::config(format!("{at}.output"), "must be at least 1"));
        }
        Ok(())
    }

    /// One: both sides of the split come from the same augmented image.
    fn views(&self) -> usize {
        1
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(Cmc::new(self.clone(), seed, device)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn graphs_have_the_paper_s_pairs() {
        assert_eq!(Graph::Core.pairs(4), [(0, 1), (0, 2), (0, 3)]);
        assert_eq!(Graph::Full.pairs(4).len(), 6);
        assert_eq!(Graph::Core.pairs(2), Graph::Full.pairs(2));
        assert!(Graph::Full.pairs(1).is_empty());
    }
}
