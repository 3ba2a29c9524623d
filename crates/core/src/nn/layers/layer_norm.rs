//! Layer normalisation.

use candle_core::Tensor;

use crate::Result;
use crate::kernels::{FeatureMap, layer_norm};
use crate::nn::{Builder, Init, MapModule, Mode};

/// Normalises the last axis of a map made by [`FeatureMap::from_rows`] (Ba et al. 2016), with `weight` and `bias` `[D]`.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// A layer over `width` features; PyTorch's `eps` is 1e-5, timm's vision transformers use 1e-6.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, width: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            weight: b.param("weight", width, Init::Const(1.0))?,
            bias: b.param("bias", width, Init::Const(0.0))?,
            eps,
        })
    }
}

impl MapModule for LayerNorm {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        layer_norm(x, &mode.weight(&self.weight), &mode.weight(&self.bias), self.eps)
    }
}
