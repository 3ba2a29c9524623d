//! Parameter store, layers, initialisers and backbones. Parameter names are torchvision's and timm's.

mod mode;
mod params;

pub use mode::Mode;
pub use params::{Builder, Entry, Init, Kind, ParamStore};

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
