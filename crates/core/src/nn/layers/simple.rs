//! Layers without parameters.

use candle_core::Tensor;

use crate::Result;
use crate::kernels::{max_pool2d, relu};
use crate::nn::{Mode, Module};

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

impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor, _mode: &Mode) -> Result<Tensor> {
        max_pool2d(x, self.kernel, self.stride, self.padding)
    }
}

/// `max(x, 0)`; see [`relu`].
#[derive(Debug, Clone, Copy)]
pub struct Relu;

impl Module for Relu {
    fn forward(&self, x: &Tensor, _mode: &Mode) -> Result<Tensor> {
        relu(x)
    }
}
