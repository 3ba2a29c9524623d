//! Convolutions whose padding follows the side of their input.

use crate::Result;
use crate::kernels::{ConvSettings, FeatureMap};
use crate::nn::{Conv2d, MapModule, Mode};

use super::pool::sides;

/// A convolution of a [`super::ResNet`].
#[derive(Debug)]
pub(super) struct Conv {
    pub conv: Conv2d,
    /// Kernel and settings, where it is padded as by TensorFlow's `SAME`.
    pub same: Option<(usize, ConvSettings)>,
}

impl MapModule for Conv {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let Some((kernel, settings)) = self.same else { return self.conv.forward_map(x, mode) };
        let [h, w] = sides(x)?;
        let (top, bottom) = same(h, kernel, settings.stride[0]);
        let (left, right) = same(w, kernel, settings.stride[1]);
        self.conv.forward_as(x, ConvSettings { padding: [top, bottom, left, right], ..settings }, mode)
    }
}

/// The padding before and behind a side that makes `ceil(side / stride)` windows of it, the odd pixel behind.
fn same(side: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let windows = side.div_ceil(stride);
    let padding = (windows.saturating_sub(1) * stride + kernel).saturating_sub(side);
    (padding / 2, padding - padding / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_is_tensorflows() {
        assert_eq!((same(224, 7, 2), same(225, 7, 2)), ((2, 3), (3, 3)));
        assert_eq!((same(56, 3, 2), same(57, 3, 2), same(1, 3, 2)), ((0, 1), (1, 1), (1, 1)));
        assert_eq!((same(56, 1, 2), same(57, 1, 2), same(56, 3, 1)), ((0, 0), (0, 0), (1, 1)));
    }
}
