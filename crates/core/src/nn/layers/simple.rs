//! Layers without parameters.

use crate::Result;
use crate::kernels::{FeatureMap, max_pool2d, relu};
use crate::nn::{MapModule, Mode};

/// Largest value of each window; see [`max_pool2d`].
#[derive(Debug, Clone, Copy)]
pub struct MaxPool2d {
    /// Side of the window.
    pub kernel: usize,
    /// Distance of neighbouring windows.
    pub stride: usize,
    /// Minus infinities added on every side.
    pub padding: usize,
}

impl MapModule for MaxPool2d {
    fn forward_map(&self, x: &FeatureMap, _mode: &Mode) -> Result<FeatureMap> {
        max_pool2d(x, self.kernel, self.stride, self.padding)
    }
}

/// `max(x, 0)`; see [`relu`].
#[derive(Debug, Clone, Copy)]
pub struct Relu;

impl MapModule for Relu {
    fn forward_map(&self, x: &FeatureMap, _mode: &Mode) -> Result<FeatureMap> {
        relu(x)
    }
}
