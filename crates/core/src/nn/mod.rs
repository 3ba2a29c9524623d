//! Parameter store, layers, initialisers and backbones. Parameter names are torchvision's and timm's.

mod heads;
mod layers;
mod mode;
mod params;
mod resnet;
#[cfg(test)]
mod tests;

pub use heads::{Mlp, MlpLayer};
pub use layers::{BatchNorm, BatchNormConfig, BatchNormKind, Conv2d, Conv2dConfig, Linear, MaxPool2d, Relu};
pub use mode::Mode;
pub use params::{Builder, Entry, Init, Kind, ParamStore};
pub use resnet::{ResNet, ResNetConfig, Shortcut, Stem};

use candle_core::Tensor;

use crate::Result;

/// Something with a forward pass.
pub trait Module: Send + Sync {
    /// Applies the module. See [`Mode`] for train, evaluation and gradient-free passes.
    ///
    /// # Errors
    /// A shape that the module cannot take.
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor>;
}

/// A backbone: samples to features `[N, width]`.
pub trait Encoder: Module {
    /// The width of the features.
    fn width(&self) -> usize;
}
