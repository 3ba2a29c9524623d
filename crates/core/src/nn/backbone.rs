//! The backbones that methods can be built on, by name.

use candle_core::Tensor;

use super::{
    BatchNormKind, Builder, Encoder, Mode, Module, PatchNet, PatchNetConfig, ResNet, ResNetConfig, Split,
    SplitConfig, VisionTransformer, VitConfig,
};
use crate::Result;

/// A backbone and its settings; in a file, the table's `kind` is `"resnet"`, `"vit"`, `"patches"` or
/// `"split"`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BackboneConfig {
    /// A residual network.
    Resnet(ResNetConfig),
    /// A vision transformer.
    Vit(VitConfig),
    /// A residual network over overlapping patches.
    Patches(PatchNetConfig),
    /// Two networks side by side, each over channels of its own.
    Split(SplitConfig),
}

impl From<ResNetConfig> for BackboneConfig {
    fn from(config: ResNetConfig) -> Self {
        Self::Resnet(config)
    }
}

impl From<VitConfig> for BackboneConfig {
    fn from(config: VitConfig) -> Self {
        Self::Vit(config)
    }
}

impl From<PatchNetConfig> for BackboneConfig {
    fn from(config: PatchNetConfig) -> Self {
        Self::Patches(config)
    }
}

impl From<SplitConfig> for BackboneConfig {
    fn from(config: SplitConfig) -> Self {
        Self::Split(config)
    }
}

impl std::fmt::Display for BackboneConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resnet(config) => config.fmt(f),
            Self::Vit(config) => config.fmt(f),
            Self::Patches(config) => config.fmt(f),
            Self::Split(config) => config.fmt(f),
        }
    }
}

impl BackboneConfig {
    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`crate::Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        match self {
            Self::Resnet(config) => config.check(at),
            Self::Vit(config) => config.check(at),
            Self::Patches(config) => config.check(at),
            Self::Split(config) => config.check(at),
        }
    }

    /// The same with batch statistics over `kind`; the other kinds of backbones have none.
    #[must_use]
    pub fn with_norm(self, kind: BatchNormKind) -> Self {
        match self {
            Self::Resnet(config) => Self::Resnet(ResNetConfig { norm: kind, ..config }),
            Self::Split(config) => Self::Split(config.with_norm(kind)),
            other => other,
        }
    }

    /// Channels of the images that the network takes.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::Resnet(config) => config.in_channels,
            Self::Vit(config) => config.in_channels,
            Self::Patches(config) => config.in_channels,
            Self::Split(config) => config.channels.iter().sum(),
        }
    }

    /// Draws that the network needs in training ([`Mode::with_noise`]).
    pub fn is_stochastic(&self) -> bool {
        matches!(self, Self::Vit(config) if config.drop_path > 0.0)
    }
}

/// A backbone: images `[N, C, H, W]` to features `[N, width]`.
#[derive(Debug)]
pub enum Backbone {
    /// A residual network.
    Resnet(ResNet),
    /// A vision transformer.
    Vit(VisionTransformer),
    /// A residual network over overlapping patches.
    Patches(PatchNet),
    /// Two networks side by side, each over channels of its own.
    Split(Split),
}

impl Backbone {
    /// The network of this configuration.
    ///
    /// # Errors
    /// Settings that no network has; a name that exists with another shape.
    pub fn new(b: &Builder, config: &BackboneConfig) -> Result<Self> {
        Ok(match config {
            BackboneConfig::Resnet(config) => Self::Resnet(ResNet::new(b, config)?),
            BackboneConfig::Vit(config) => Self::Vit(VisionTransformer::new(b, config)?),
            BackboneConfig::Patches(config) => Self::Patches(PatchNet::new(b, config)?),
            BackboneConfig::Split(config) => Self::Split(Split::new(b, config)?),
        })
    }
}

impl Module for Backbone {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        match self {
            Self::Resnet(network) => network.forward(x, mode),
            Self::Vit(network) => network.forward(x, mode),
            Self::Patches(network) => network.forward(x, mode),
            Self::Split(network) => network.forward(x, mode),
        }
    }
}

impl Encoder for Backbone {
    fn width(&self) -> usize {
        match self {
            Self::Resnet(network) => network.width(),
            Self::Vit(network) => network.width(),
            Self::Patches(network) => network.width(),
            Self::Split(network) => network.width(),
        }
    }
}
