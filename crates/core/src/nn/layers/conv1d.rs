//! One-dimensional convolution.

use candle_core::Tensor;

use crate::Result;
use crate::kernels::{FeatureMap, conv1d};
use crate::nn::{Builder, Init, MapModule, Mode};

/// Settings of a [`Conv1d`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv1dConfig {
    /// Length of the kernel.
    pub kernel: usize,
    /// Distance of neighbouring windows.
    pub stride: usize,
    /// Zeros before and after the sequence.
    pub padding: [usize; 2],
    /// How `weight` begins.
    pub weight: Init,
    /// How `bias` begins; none for a convolution without bias.
    pub bias: Option<Init>,
}

impl Conv1dConfig {
    /// PyTorch's defaults: weight and bias uniform in `1 / sqrt(inputs · kernel)`, the same padding on both sides.
    pub fn torch(kernel: usize, stride: usize, padding: usize) -> Self {
        let torch = Init::TorchDefault;
        Self { kernel, stride, padding: [padding; 2], weight: torch, bias: Some(torch) }
    }
}

/// Convolution with `weight` `[O, C, k]` and an optional `bias` `[O]`: `[N, C, T]` to `[N, O, T']`.
#[derive(Debug)]
pub struct Conv1d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: [usize; 2],
}

impl Conv1d {
    /// A convolution from `inputs` to `outputs` channels.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, outputs: usize, config: Conv1dConfig) -> Result<Self> {
        let Conv1dConfig { kernel, stride, padding, weight, bias } = config;
        let bias = match bias {
            Some(Init::TorchDefault) => Some(Init::Uniform(1.0 / ((inputs * kernel).max(1) as f64).sqrt())),
            other => other,
        };
        Ok(Self {
            weight: b.param("weight", (outputs, inputs, kernel), weight)?,
            bias: bias.map(|init| b.param("bias", outputs, init)).transpose()?,
            stride,
            padding,
        })
    }

    /// The same layer with these zeros before and after the sequence instead of its own.
    ///
    /// # Errors
    /// As [`MapModule::forward_map`].
    pub fn forward_padded(&self, x: &FeatureMap, padding: [usize; 2], mode: &Mode) -> Result<FeatureMap> {
        let bias = self.bias.as_ref().map(|bias| mode.weight(bias));
        conv1d(x, &mode.weight(&self.weight), bias.as_ref(), self.stride, padding)
    }
}

impl MapModule for Conv1d {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        self.forward_padded(x, self.padding, mode)
    }
}
