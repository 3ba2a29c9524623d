//! The momentum encoder's parameters.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::{Buffers, ema_update};
use crate::nn::{Builder, ParamStore};
use crate::{Error, Result};

/// The parameters of a momentum encoder: a copy of (a part of) the trained ones that follows them slowly. It is never
/// seen by the optimiser; run its network with [`crate::nn::Mode::without_grad`].
///
/// Entries are named as in the trained store; what the momentum network does not have (BYOL's predictor) is left out by
/// not building it here.
#[derive(Debug)]
pub struct Momentum {
    params: ParamStore,
}

/// What the names begin with in checkpoints.
const PREFIX: &str = "momentum.";

impl Momentum {
    /// An empty store; build the network with [`Momentum::builder`], then [`Momentum::copy`].
    pub fn new(device: &Device) -> Self {
        Self { params: ParamStore::new(0, device) }
    }

    /// Where the momentum network is built.
    pub fn builder(&self) -> Builder {
        self.params.builder()
    }

    /// The parameters.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }

    /// Makes it an exact copy of the trained network, buffers included.
    ///
    /// # Errors
    /// As [`ema_update`].
    pub fn copy(&self, source: &ParamStore) -> Result<()> {
        ema_update(&self.params, source, 0.0, Buffers::Copy)
    }

    /// `θ_k = m θ_k + (1 - m) θ_q` for all parameters; running statistics stay its own.
    ///
    /// # Errors
    /// As [`ema_update`].
    pub fn update(&self, source: &ParamStore, momentum: f64) -> Result<()> {
        ema_update(&self.params, source, momentum, Buffers::Keep)
    }

    /// For [`crate::train::Method::state`]: all tensors as `momentum.<name>`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.params.tensors().into_iter().map(|(name, t)| (format!("{PREFIX}{name}"), t)).collect()
    }

    /// Takes back what [`Momentum::state`] gave.
    ///
    /// # Errors
    /// [`Error::Weights`] listing every missing and mis-shaped name; nothing has changed then.
    pub fn load_state(&self, state: &HashMap<String, Tensor>) -> Result<()> {
        let own =
            state.iter().filter_map(|(name, t)| Some((name.strip_prefix(PREFIX)?.to_string(), t.clone())));
        self.params.load(&own.collect(), "the state of the momentum encoder")
    }
}

/// The tensor of this name and shape in a method's saved state.
pub(super) fn saved(state: &HashMap<String, Tensor>, name: &str, shape: &[usize]) -> Result<Tensor> {
    let Some(tensor) = state.get(name) else {
        return Err(Error::data(name, "missing in the saved state"));
    };
    if tensor.dims() != shape {
        return Err(Error::shape("saved state", format!("{shape:?} for `{name}`"), tensor.dims()));
    }
    Ok(tensor.clone())
}
