//! Layers. Parameters are named `weight` and `bias`, buffers `running_mean` and `running_var`, as in PyTorch.

mod batch_norm;
mod conv;
mod conv1d;
mod layer_norm;
mod linear;
mod simple;

pub use batch_norm::{BatchNorm, BatchNormConfig, BatchNormKind};
pub use conv::{Conv2d, Conv2dConfig};
pub use conv1d::{Conv1d, Conv1dConfig};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use simple::{MaxPool2d, Relu};
