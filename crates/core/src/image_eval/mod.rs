//! Protocols that train on images: linear classifiers on augmented views of a frozen backbone, and fine-tuning.
//!
//! A protocol is a [`crate::experiment::RunConfig`] of a [`ClassifierConfig`], which [`ImageProtocol::runs`] gives and
//! which one can print; the loop of all methods trains it. Protocols on frozen
//! features are in [`crate::eval`].

mod classifier;
mod layers;
#[cfg(feature = "data")]
mod run;
mod settings;
#[cfg(test)]
mod settings_tests;
#[cfg(test)]
#[cfg(feature = "data")]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::Tensor;

pub use classifier::{Classifier, ClassifierConfig, HeadInit};
pub use layers::{FeatureKind, adaptive_max_pool};
#[cfg(feature = "data")]
pub use run::{Images, Measured, Options};

use crate::augment::EvalTransform;
use crate::nn::BackboneConfig;
use crate::weights::digest;
use crate::{Error, Result};

/// A protocol that trains on images. `docs/protocols.md` has the settings and sources of each.
///
/// All train on random resized crops (area 0.08 to 1) and mirror images, of the size and normalisation of the run's own
/// evaluation, and measure on that evaluation's images. Frozen backbones stay in evaluation mode, also while the
/// classifier trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum ImageProtocol {
    /// `linear-moco-v1`.
    LinearMocoV1,
    /// `linear-simclr-v1`.
    LinearSimclrV1,
    /// `linear-mocov3-v1`.
    LinearMocoV3V1,
    /// `linear-byol-v1`.
    LinearByolV1,
    /// `linear-swav-v1`.
    LinearSwavV1,
    /// `linear-simsiam-v1`.
    LinearSimsiamV1,
    /// `linear-dino-v1`.
    LinearDinoV1,
    /// `linear-lightly-v1`.
    LinearLightlyV1,
    /// `linear-layers-v1`.
    LinearLayersV1,
    /// `finetune-simclr-1pct-v1`.
    FinetuneSimclr1V1,
    /// `finetune-simclr-10pct-v1`.
    FinetuneSimclr10V1,
    /// `finetune-simclr-100pct-v1`.
    FinetuneSimclr100V1,
    /// `finetune-byol-1pct-v1`.
    FinetuneByol1V1,
    /// `finetune-byol-10pct-v1`.
    FinetuneByol10V1,
    /// `finetune-byol-100pct-v1`.
    FinetuneByol100V1,
    /// `finetune-swav-1pct-v1`.
    FinetuneSwav1V1,
    /// `finetune-swav-10pct-v1`.
    FinetuneSwav10V1,
}

const NAMES: [(ImageProtocol, &str); 17] = [
    (ImageProtocol::LinearMocoV1, "linear-moco-v1"),
    (ImageProtocol::LinearSimclrV1, "linear-simclr-v1"),
    (ImageProtocol::LinearMocoV3V1, "linear-mocov3-v1"),
    (ImageProtocol::LinearByolV1, "linear-byol-v1"),
    (ImageProtocol::LinearSwavV1, "linear-swav-v1"),
    (ImageProtocol::LinearSimsiamV1, "linear-simsiam-v1"),
    (ImageProtocol::LinearDinoV1, "linear-dino-v1"),
    (ImageProtocol::LinearLightlyV1, "linear-lightly-v1"),
    (ImageProtocol::LinearLayersV1, "linear-layers-v1"),
    (ImageProtocol::FinetuneSimclr1V1, "finetune-simclr-1pct-v1"),
    (ImageProtocol::FinetuneSimclr10V1, "finetune-simclr-10pct-v1"),
    (ImageProtocol::FinetuneSimclr100V1, "finetune-simclr-100pct-v1"),
    (ImageProtocol::FinetuneByol1V1, "finetune-byol-1pct-v1"),
    (ImageProtocol::FinetuneByol10V1, "finetune-byol-10pct-v1"),
    (ImageProtocol::FinetuneByol100V1, "finetune-byol-100pct-v1"),
    (ImageProtocol::FinetuneSwav1V1, "finetune-swav-1pct-v1"),
    (ImageProtocol::FinetuneSwav10V1, "finetune-swav-10pct-v1"),
];

impl ImageProtocol {
    /// Every protocol.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(protocol, _)| *protocol)
    }

    /// The versioned name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(protocol, _)| *protocol == self).map_or("", |(_, name)| name)
    }

    /// The protocol of this name.
    ///
    /// # Errors
    /// [`Error::Config`] listing the known names.
    pub fn parse(name: &str) -> Result<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(protocol, _)| *protocol).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(_, name)| *name).collect();
            Error::config("eval.protocol", format!("`{name}` is unknown; known: {}", known.join(", ")))
        })
    }

    /// The share of the labels that the protocol trains on, the same for every class.
    pub fn labels(self) -> f64 {
        match self {
            Self::FinetuneSimclr1V1 | Self::FinetuneByol1V1 | Self::FinetuneSwav1V1 => 0.01,
            Self::FinetuneSimclr10V1 | Self::FinetuneByol10V1 | Self::FinetuneSwav10V1 => 0.1,
            _ => 1.0,
        }
    }
}

impl From<ImageProtocol> for &'static str {
    fn from(protocol: ImageProtocol) -> Self {
        protocol.name()
    }
}

impl TryFrom<String> for ImageProtocol {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::parse(&name)
    }
}

impl std::fmt::Display for ImageProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A trained encoder as a protocol needs it.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The architecture.
    pub backbone: BackboneConfig,
    /// Its tensors under public names, as [`crate::weights::load_encoder`] gives them.
    pub tensors: HashMap<String, Tensor>,
    /// Where they come from; named in errors.
    pub path: PathBuf,
    /// What the run's evaluation does to an image.
    pub eval: EvalTransform,
}

impl Subject {
    /// A hash of the weights.
    ///
    /// # Errors
    /// A tensor that cannot be read back from its device.
    pub fn digest(&self) -> Result<String> {
        digest(self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))
    }
}
