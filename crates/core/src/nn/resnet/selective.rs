//! Selective kernels (Li et al. 2019) as SimCLR v2 has them.

use candle_nn::ops::sigmoid;

use super::config::ResNetConfig;
use super::conv::Conv;
use crate::kernels::{FeatureMap, global_avg_pool};
use crate::nn::{BatchNorm, Builder, MapModule, Mode};
use crate::{Error, Result};

/// The least width of the squeeze.
const LEAST: usize = 32;

/// The width of the squeeze in a block of so many channels.
pub(crate) fn squeezed(channels: usize, ratio: f64) -> usize {
    ((channels as f64 * ratio) as usize).max(LEAST)
}

/// Weighs two streams of C channels each against each other, for every channel by itself: `[N, 2C, H, W]`, one stream
/// after the other, to `[N, C, H, W]`.
///
/// The mean over the map of the streams' sum goes through a 1x1 convolution to `max(C ratio, 32)` channels, batch norm,
/// ReLU and a 1x1 convolution to 2C; the weights are the softmax of that over the two streams. Unlike in the paper on
/// selective kernels, both streams come from plain 3x3 convolutions: neither groups nor dilation.
#[derive(Debug)]
pub(super) struct Mix {
    squeeze: Conv,
    norm: BatchNorm,
    expand: Conv,
    channels: usize,
}

impl Mix {
    pub(super) fn new(b: &Builder, config: &ResNetConfig, channels: usize, ratio: f64) -> Result<Self> {
        let squeezed = squeezed(channels, ratio);
        Ok(Self {
            squeeze: config.conv(&b.pp("squeeze"), [channels, squeezed], 1, 1)?,
            norm: config.norm(&b.pp("bn"), squeezed, false)?,
            expand: config.conv(&b.pp("expand"), [squeezed, 2 * channels], 1, 1)?,
            channels,
        })
    }
}

impl MapModule for Mix {
    fn forward_map(&self, streams: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let (c, dims) = (self.channels, streams.dims());
        if dims.len() != 4 || dims[1] != 2 * c {
            return Err(Error::shape("selective kernels", format!("[N, {}, H, W]", 2 * c), &dims));
        }
        let means = global_avg_pool(streams)?; // [N, 2C]
        let sum = (means.narrow(1, 0, c)? + means.narrow(1, c, c)?)?.reshape((dims[0], c, 1, 1))?;
        let squeezed = self.squeeze.forward_map(&FeatureMap::new(&sum)?, mode)?;
        let squeezed = self.norm.forward_relu(&squeezed, None, mode)?;
        let logits = self.expand.forward_map(&squeezed, mode)?.tensor()?; // [N, 2C, 1, 1]
        // The softmax of two numbers is the sigmoid of their difference.
        let first = sigmoid(&(logits.narrow(1, 0, c)? - logits.narrow(1, c, c)?)?)?;
        let streams = streams.tensor()?;
        let (a, b) = (streams.narrow(1, 0, c)?, streams.narrow(1, c, c)?);
        FeatureMap::new(&((&a - &b)?.broadcast_mul(&first)? + b)?)
    }
}
