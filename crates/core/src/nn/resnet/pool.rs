//! Pools with TensorFlow's padding.

use candle_core::{Device, Tensor};

use crate::kernels::{ConvSettings, FeatureMap, conv2d, max_pool2d};
use crate::{Error, Result};

/// Every channel convolved with the same constant: it pads and averages feature maps where they lie.
#[derive(Debug)]
pub(super) struct Constant(Tensor);

impl Constant {
    fn new(value: f32, channels: usize, kernel: usize, device: &Device) -> Result<Self> {
        Ok(Self(Tensor::full(value, (channels, 1, kernel, kernel), device)?))
    }

    /// `padding` at the top, bottom, left and right.
    fn forward(&self, x: &FeatureMap, stride: usize, padding: [usize; 4]) -> Result<FeatureMap> {
        let settings = ConvSettings { stride: [stride; 2], padding, groups: self.0.dims()[0] };
        conv2d(x, &self.0, None, settings)
    }
}

pub(super) fn sides(x: &FeatureMap) -> Result<[usize; 2]> {
    match x.dims().as_slice() {
        &[_, _, h, w] => Ok([h, w]),
        dims => Err(Error::shape("pool", "[N, C, H, W]", dims)),
    }
}

/// The average pool of 2x2 that ResNet-D has in its shortcuts, also where nothing shrinks.
///
/// As in SimCLR v2's code, a stride of 2 pads zeros at the bottom and on the right, which count; a stride of 1 pads as
/// TensorFlow's `SAME`, whose averages are over the pixels inside the map.
#[derive(Debug)]
pub(super) struct ShortcutPool {
    quarter: Constant,
    stride: usize,
}

impl ShortcutPool {
    pub(super) fn new(channels: usize, stride: usize, device: &Device) -> Result<Self> {
        Ok(Self { quarter: Constant::new(0.25, channels, 2, device)?, stride })
    }

    pub(super) fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        let y = self.quarter.forward(x, self.stride, [0, 1, 0, 1])?;
        if self.stride > 1 {
            return Ok(y);
        }
        // Windows over the edge hold half of the pixels, the one in the corner a quarter.
        let [h, w] = sides(x)?;
        let factor = |place: usize, side: usize| if place + 1 == side { 2f32 } else { 1.0 };
        let factors: Vec<f32> = (0..h * w).map(|i| factor(i / w, h) * factor(i % w, w)).collect();
        let factors = Tensor::from_vec(factors, (1, 1, h, w), self.quarter.0.device())?;
        FeatureMap::new(&y.tensor()?.broadcast_mul(&factors)?)
    }
}

/// The max pool of 3x3 and stride 2 behind a stem.
#[derive(Debug)]
pub(super) enum StemPool {
    /// Padded by one pixel on every side.
    Symmetric,
    /// Padded as by TensorFlow's `SAME`.
    Same(Constant),
}

impl StemPool {
    pub(super) fn same(channels: usize, device: &Device) -> Result<Self> {
        Ok(Self::Same(Constant::new(1.0, channels, 1, device)?))
    }

    /// The pool of `x`, which must come from a ReLU: zeros then pad as well as minus infinity does.
    pub(super) fn forward(&self, x: &FeatureMap) -> Result<FeatureMap> {
        let [h, w] = sides(x)?;
        match self {
            // `SAME` pads odd sides on both ends.
            Self::Same(pad) if h % 2 == 0 || w % 2 == 0 => {
                max_pool2d(&pad.forward(x, 1, [h % 2, 1, w % 2, 1])?, 3, 2, 0)
            }
            _ => max_pool2d(x, 3, 2, 1),
        }
    }
}
