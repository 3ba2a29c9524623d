//! Fully connected layer.

use candle_core::Tensor;

use crate::Result;
use crate::kernels::{FeatureMap, linear};
use crate::nn::{Builder, Init, Mode, Module};

/// `x W^T + b` with `weight` `[O, I]` and an optional `bias` `[O]`: `[..., I]` to `[..., O]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer from `inputs` to `outputs` features; `bias` is none for a layer without one;
    /// [`Init::TorchDefault`] is PyTorch's also for the bias, uniform in `1 / sqrt(inputs)`.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, outputs: usize, weight: Init, bias: Option<Init>) -> Result<Self> {
        let bias = match bias {
            Some(Init::TorchDefault) => Some(Init::Uniform(1.0 / (inputs.max(1) as f64).sqrt())),
            other => other,
        };
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
        Self::new(b, inputs, outputs, Init::TorchDefault, Some(Init::TorchDefault))
    }
}

impl Linear {
    /// The same on a map made by [`FeatureMap::from_rows`].
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn forward_rows(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let bias = self.bias.as_ref().map(|bias| mode.weight(bias));
        linear(x, &mode.weight(&self.weight), bias.as_ref())
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.forward_rows(&FeatureMap::from_rows(x)?, mode)?.rows()
    }
}
