//! Layers. Parameters are named `weight` and `bias`, buffers `running_mean` and `running_var`, as in PyTorch.

mod batch_norm;
mod conv;
#[cfg(any())]
mod layer_norm;
mod linear;
mod simple;

pub use batch_norm::{BatchNorm, BatchNormConfig, BatchNormKind};
pub use conv::{Conv2d, Conv2dConfig};
#[cfg(any())]
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use simple::{MaxPool2d, Relu};
