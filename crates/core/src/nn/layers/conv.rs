//! Two-dimensional convolution.

use candle_core::Tensor;

use crate::kernels::{ConvSettings, FeatureMap, conv2d};
use crate::nn::{Builder, Init, MapModule, Mode};
use crate::{Error, Result};

/// Settings of a [`Conv2d`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conv2dConfig {
    /// Side of the square kernel.
    pub kernel: usize,
    /// Stride, padding and groups.
    pub settings: ConvSettings,
    /// How `weight` begins.
    pub weight: Init,
    /// How `bias` begins; none for a convolution without bias.
    pub bias: Option<Init>,
}

/// Convolution with `weight` `[O, C/g, k, k]` and an optional `bias` `[O]`: `[N, C, H, W]` to `[N, O, OH, OW]`.
#[derive(Debug)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    settings: ConvSettings,
}

impl Conv2d {
    /// A convolution from `inputs` to `outputs` channels.
    ///
    /// # Errors
    /// Channels that the groups do not divide; a name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, outputs: usize, config: Conv2dConfig) -> Result<Self> {
        let Conv2dConfig { kernel, settings, weight, bias } = config;
        let groups = settings.groups;
        if groups == 0 || !inputs.is_multiple_of(groups) || !outputs.is_multiple_of(groups) {
            return Err(Error::shape("conv2d", format!("channels in {groups} groups"), &[inputs, outputs]));
        }
        Ok(Self {
            weight: b.param("weight", (outputs, inputs / groups, kernel, kernel), weight)?,
            bias: bias.map(|init| b.param("bias", outputs, init)).transpose()?,
            settings,
        })
    }

    /// The same layer with these settings instead of its own.
    ///
    /// # Errors
    /// As [`MapModule::forward_map`].
    pub fn forward_as(&self, x: &FeatureMap, settings: ConvSettings, mode: &Mode) -> Result<FeatureMap> {
        let bias = self.bias.as_ref().map(|bias| mode.weight(bias));
        conv2d(x, &mode.weight(&self.weight), bias.as_ref(), settings)
    }
}

impl MapModule for Conv2d {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        self.forward_as(x, self.settings, mode)
    }
}
