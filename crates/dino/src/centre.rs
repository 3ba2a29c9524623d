//! The centre of the teacher's outputs (the paper's eq. 4).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use contrastive_core::dist::Comm;
use contrastive_core::{Error, Result};

use crate::weights::CENTRE;

/// The running mean c `[1, K]` of the teacher's raw logits. It begins at 0.
#[derive(Debug)]
pub struct Centre {
    value: Tensor,
    momentum: f64,
}

impl Centre {
    /// A centre of zeros for K outputs that keeps `momentum` of itself in an update.
    ///
    /// # Errors
    /// Candle's.
    pub fn new(k: usize, momentum: f64, device: &Device) -> Result<Self> {
        Ok(Self { value: Tensor::zeros((1, k), DType::F32, device)?, momentum })
    }

    /// c, `[1, K]`.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The mean `[1, K]` over the rows of `logits` `[M, K]` of all ranks, each of which brings as many.
    ///
    /// # Errors
    /// A rank that is gone.
    pub fn mean(logits: &Tensor, comm: &Comm) -> Result<Tensor> {
        let own = logits.detach().to_dtype(DType::F32)?.mean_keepdim(0)?;
        Ok((comm.all_reduce_sum(&own)? / comm.size() as f64)?)
    }

    /// `c = m c + (1 - m) mean`. It belongs behind the loss of the step that the mean comes from.
    ///
    /// # Errors
    /// A mean of another shape.
    pub fn update(&mut self, mean: &Tensor) -> Result<()> {
        if mean.dims() != self.value.dims() {
            return Err(Error::shape("centre", format!("{:?}", self.value.dims()), mean.dims()));
        }
        self.value = ((&self.value * self.momentum)? + (mean.detach() * (1.0 - self.momentum))?)?;
        Ok(())
    }

    /// For [`contrastive_core::train::Method::state`].
    pub fn state(&self) -> Vec<(String, Tensor)> {
        vec![(CENTRE.to_string(), self.value.clone())]
    }

    /// Takes back what [`Centre::state`] gave.
    ///
    /// # Errors
    /// A missing name or another shape; nothing has changed then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let Some(value) = state.get(CENTRE) else {
            return Err(Error::data(CENTRE, "missing in the saved state"));
        };
        if value.dims() != self.value.dims() {
            return Err(Error::shape("saved centre", format!("{:?}", self.value.dims()), value.dims()));
        }
        self.value = value.to_device(self.value.device())?;
        Ok(())
    }
}
