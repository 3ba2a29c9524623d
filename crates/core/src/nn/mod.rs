//! Parameter store, layers, initialisers and backbones. Parameter names are torchvision's and timm's.

mod alexnet;
mod backbone;
mod cost;
mod heads;
mod layers;
mod mode;
mod params;
mod patches;
mod positions;
mod recurrent;
mod resnet;
mod split;
#[cfg(test)]
mod tests;
mod vit;

pub use alexnet::{AlexNet, AlexNetConfig};
pub use backbone::{Backbone, BackboneConfig};
pub use cost::Cost;
pub use heads::{Activation, Mlp, MlpLayer};
pub use layers::{
    BatchNorm, BatchNormConfig, BatchNormKind, Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, LayerNorm, Linear,
    MaxPool2d, Relu,
};
pub use mode::{Mode, Noise};
pub use params::{Builder, Entry, Init, Kind, ParamStore};
pub use patches::{PatchCrops, PatchInit, PatchNet, PatchNetConfig, PatchStem, patches};
pub use positions::Interpolation;
pub use recurrent::{Carried, Gru, Lstm, Recurrent};
pub(crate) use resnet::squeezed;
pub use resnet::{Padding, ResNet, ResNetConfig, Shortcut, Stem};
pub use split::{HalfConfig, Split, SplitConfig};
pub use vit::{VisionTransformer, VitConfig};

use candle_core::Tensor;

use crate::Result;
use crate::kernels::FeatureMap;

/// Prefix of the backbone's names in a method's parameter store.
pub const BACKBONE: &str = "backbone";

/// Something with a forward pass.
pub trait Module: Send + Sync {
    /// Applies the module. See [`Mode`] for train, evaluation and gradient-free passes.
    ///
    /// # Errors
    /// A shape that the module cannot take.
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor>;
}

/// A module between feature maps: layers that follow each other without a tensor in between.
pub trait MapModule: Send + Sync {
    /// Applies the module. See [`Mode`] for train, evaluation and gradient-free passes.
    ///
    /// # Errors
    /// A shape that the module cannot take.
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap>;
}

impl<M: MapModule> Module for M {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.forward_map(&FeatureMap::new(x)?, mode)?.tensor()
    }
}

/// A backbone: samples to features `[N, width]`.
pub trait Encoder: Module {
    /// The width of the features.
    fn width(&self) -> usize;
}
