//! What comes before the first group.

use super::config::{ResNetConfig, Stem};
use super::conv::Conv;
use super::pool::StemPool;
use crate::Result;
use crate::kernels::FeatureMap;
use crate::nn::{BatchNorm, Builder, MapModule, Mode};

/// Convolutions with batch norm and ReLU, and the pool.
#[derive(Debug)]
pub(super) struct StemLayers {
    layers: Vec<(Conv, BatchNorm)>,
    pool: Option<StemPool>,
}

impl StemLayers {
    pub(super) fn new(b: &Builder, config: &ResNetConfig) -> Result<Self> {
        let (inputs, base) = (config.in_channels, config.stem_channels());
        let pool = match config.stem {
            Stem::Imagenet => Some(StemPool::Symmetric),
            Stem::ImagenetSame => Some(StemPool::same(base, &b.store().device())?),
            Stem::Cifar => None,
        };
        // (names of convolution and batch norm, outputs, kernel, stride).
        let half = base.div_ceil(2);
        let plan = match (config.stem, config.selective_kernels) {
            (Stem::Cifar, _) => vec![("conv1", "bn1", base, 3, 1)],
            (_, None) => vec![("conv1", "bn1", base, 7, 2)],
            (_, Some(_)) => vec![
                ("conv1.0", "conv1.1", half, 3, 2),
                ("conv1.3", "conv1.4", half, 3, 1),
                ("conv1.6", "bn1", base, 3, 1),
            ],
        };
        let (mut layers, mut channels) = (Vec::with_capacity(plan.len()), inputs);
        for (conv, norm, width, kernel, stride) in plan {
            let conv = config.conv(&b.pp(conv), [channels, width], kernel, stride)?;
            layers.push((conv, config.norm(&b.pp(norm), width, false)?));
            channels = width;
        }
        Ok(Self { layers, pool })
    }
}

impl MapModule for StemLayers {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let mut y = x.clone();
        for (conv, norm) in &self.layers {
            y = norm.forward_relu(&conv.forward_map(&y, mode)?, None, mode)?;
        }
        match &self.pool {
            Some(pool) => pool.forward(&y),
            None => Ok(y),
        }
    }
}
