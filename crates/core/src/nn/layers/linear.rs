//! Fully connected layer.

use candle_core::Tensor;

use crate::nn::{Builder, Init, Mode, Module};
use crate::{Error, Result};

/// `x W^T + b` with `weight` `[O, I]` and an optional `bias` `[O]`: `[..., I]` to `[..., O]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer from `inputs` to `outputs` features; `bias` is none for a layer without one.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, outputs: usize, weight: Init, bias: Option<Init>) -> Result<Self> {
        Ok(Self {
            weight: b.param("weight", (outputs, inputs), weight)?,
            bias: bias.map(|init| b.param("bias", outputs, init)).transpose()?,
        })
    }

    /// PyTorch's defaults: weight and bias uniform in `1 / sqrt(inputs)`.
    ///
    /// # Errors
    /// As [`Linear::new`].
    pub fn torch_default(b: &Builder, inputs: usize, outputs: usize) -> Result<Self> {
        let bound = 1.0 / (inputs.max(1) as f64).sqrt();
        Self::new(b, inputs, outputs, Init::TorchDefault, Some(Init::Uniform(bound)))
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = outputs,
            _ => return Err(Error::shape("linear", format!("[..., {inputs}]"), x.dims())),
        }
        let y = x.reshape(((), inputs))?.matmul(&mode.weight(&self.weight).t()?)?;
        let y = match &self.bias {
            None => y,
            Some(bias) => y.broadcast_add(&mode.weight(bias))?,
        };
        Ok(y.reshape(shape)?)
    }
}
