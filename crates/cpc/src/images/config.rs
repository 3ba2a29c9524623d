//! Settings of CPC on images.

use candle_core::Device;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{BackboneConfig, PatchNetConfig};
use contrastive_core::train::Method;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::method::ImagesCpc;
use crate::negatives::{NegativesConfig, Scheme};
use crate::objective::Product;

/// The networks and their task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesConfig {
    /// The patches and g_enc.
    pub encoder: PatchNetConfig,
    /// In training, side of the random crop that is left of every patch, between zeros; whole patches where absent.
    pub patch_crop: Option<usize>,
    /// g_ar. Where absent, predictions are made from the patches' own vectors (Greedy InfoMax).
    pub context: Option<RowContextConfig>,
    /// What is predicted and told apart.
    pub objective: RowsConfig,
}

/// The masked context network; see [`super::RowContext`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowContextConfig {
    /// Residual blocks: each sees one more row above.
    pub blocks: usize,
    /// Channels of the blocks' inner convolutions.
    pub width: usize,
}

/// The settings of the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsConfig {
    /// K, the distances that are predicted.
    pub steps: usize,
    /// Rows between the context's and the first target's: step k predicts `skip + k` rows below. With patches that
    /// overlap by half, the row that 0 would take shares pixels with the context.
    pub skip: usize,
    /// Where negatives come from.
    pub negatives: Negatives,
    /// How predictions and targets are multiplied.
    pub product: Product,
}

/// Which vectors a prediction's target is told apart from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Negatives {
    /// All others of the batch.
    All {},
    /// The others of the same image: what all patches of an image share, such as its lighting, tells nothing apart.
    SameImage {},
    /// Drawn from all others of the batch, with replacement.
    Drawn {
        /// How many for each prediction.
        count: usize,
    },
    /// Drawn from all of the batch, the target itself among them (Greedy InfoMax): one draw for every target.
    Blind {
        /// How many for each prediction.
        count: usize,
    },
}

impl Negatives {
    /// The scheme over sequences that a grid, read row by row, is one of.
    pub(super) fn over_sequences(self) -> NegativesConfig {
        match self {
            Self::All {} => NegativesConfig { scheme: Scheme::MixedSpeaker, count: None },
            Self::SameImage {} => NegativesConfig { scheme: Scheme::CurrentSequence, count: None },
            Self::Drawn { count } => NegativesConfig { scheme: Scheme::MixedSpeaker, count: Some(count) },
            Self::Blind { count } => NegativesConfig { scheme: Scheme::AllFrames, count: Some(count) },
        }
    }
}

impl RowsConfig {
    fn check(&self, at: &str) -> Result<()> {
        if !(1..=1024).contains(&self.steps) {
            return Err(Error::config(format!("{at}.steps"), format!("{} is not in 1..=1024", self.steps)));
        }
        if self.skip > 1024 {
            return Err(Error::config(format!("{at}.skip"), format!("{} is above 1024", self.skip)));
        }
        self.negatives.over_sequences().check(&format!("{at}.negatives"))
    }
}

impl MethodConfig for ImagesConfig {
    fn name(&self) -> &'static str {
        "cpc-images"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.encoder.check(&format!("{at}.encoder"))?;
        if let Some(side) = self.patch_crop
            && !(1..=self.encoder.patch).contains(&side)
        {
            let reason = format!("{side} is not in 1..={}, the side of a patch", self.encoder.patch);
            return Err(Error::config(format!("{at}.patch_crop"), reason));
        }
        if let Some(RowContextConfig { blocks, width }) = self.context {
            for (key, value) in [("blocks", blocks), ("width", width)] {
                if !(1..=4096).contains(&value) {
                    let reason = format!("{value} is not in 1..=4096");
                    return Err(Error::config(format!("{at}.context.{key}"), reason));
                }
            }
        }
        self.objective.check(&format!("{at}.objective"))
    }

    fn views(&self) -> usize {
        1
    }

    fn backbone(&self) -> BackboneConfig {
        self.encoder.into()
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(ImagesCpc::new(self.clone(), seed, device)?))
    }
}
