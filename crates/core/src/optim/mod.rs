//! Optimisers, schedules and parameter groups. State is saved by parameter name.

mod gradients;

pub use gradients::Gradients;

use std::collections::HashMap;

use candle_core::Tensor;

use crate::Result;

/// Changes parameters in place from their gradients.
///
/// An optimiser is made from a [`crate::nn::ParamStore`] and its parameter groups; the learning rate comes with every
/// step, so that schedules stay outside.
pub trait Optimizer: Send {
    /// One update of every parameter that has a gradient.
    ///
    /// # Errors
    /// A gradient whose shape differs from its parameter's.
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()>;

    /// Moments and counters by name (`momentum/layer1.0.conv1.weight`).
    ///
    /// # Errors
    /// A tensor that cannot be read back from its device.
    fn state(&self) -> Result<Vec<(String, Tensor)>>;

    /// Takes back what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// A missing name or another shape.
    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()>;
}
