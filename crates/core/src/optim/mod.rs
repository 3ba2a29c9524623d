//! Optimisers, schedules and parameter groups. State is saved by parameter name.
//!
//! An optimiser is described by an [`OptimizerConfig`] and [`ParamGroups`] and built for one
//! [`crate::nn::ParamStore`]. On the CPU each parameter is updated by one fused pass over slices, in place, so that the
//! layers' clones of it see the change; other devices run the same formulas as Candle operations.

mod config;
mod engine;
mod fused;
mod gradients;
mod groups;
mod lars;
mod plain;
mod rmsprop;
mod schedule;
#[cfg(test)]
mod tests;

pub(crate) use config::require;
pub use config::{AdamConfig, LarsConfig, OptimizerConfig, SgdConfig};
pub use gradients::Gradients;
pub use groups::{ParamGroups, is_bias, is_norm, ndim_above_one};
pub use lars::LarsVariant;
pub use rmsprop::{RmsPropConfig, RmsPropVariant};
pub use schedule::{LrScaling, Schedule, cosine};

use std::collections::HashMap;

use candle_core::Tensor;

use crate::{Error, Result};

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

    /// Replaces the weight decay of the following steps, for methods that schedule it (DINO: 0.04 to 0.4 by
    /// [`cosine`]). Not part of the state: set it before every step.
    ///
    /// # Errors
    /// A negative or non-finite value, or an optimiser that has no weight decay.
    fn set_weight_decay(&mut self, _weight_decay: f64) -> Result<()> {
        Err(Error::config("weight_decay", "this optimiser has no weight decay to change"))
    }
}
