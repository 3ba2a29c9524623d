//! Residual blocks.

use super::config::ResNetConfig;
use super::conv::Conv;
use super::pool::ShortcutPool;
use super::selective::Mix;
use crate::Result;
use crate::kernels::FeatureMap;
use crate::nn::{BatchNorm, Builder, MapModule, Mode};

/// The extents of a [`Block`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub inputs: usize,
    /// Channels of all convolutions but a bottleneck's last.
    pub middle: usize,
    pub outputs: usize,
    pub stride: usize,
    pub bottleneck: bool,
    /// Whether the shortcut has a convolution.
    pub project: bool,
}

/// A residual block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1).
#[derive(Debug)]
pub(super) struct Block {
    layers: Vec<Layer>,
    projection: Option<Projection>,
}

/// Convolution and batch norm; where kernels are selected, they make two streams, which are then mixed.
#[derive(Debug)]
struct Layer {
    conv: Conv,
    norm: BatchNorm,
    mix: Option<Mix>,
}

/// A shortcut that changes the shape.
#[derive(Debug)]
struct Projection {
    /// ResNet-D's, instead of the convolution's stride.
    pool: Option<ShortcutPool>,
    conv: Conv,
    norm: BatchNorm,
}

impl Block {
    pub(super) fn new(b: &Builder, config: &ResNetConfig, plan: Plan) -> Result<Self> {
        let Plan { inputs, middle, outputs, stride, .. } = plan;
        // (outputs, kernel, stride) of each convolution.
        let convs = if plan.bottleneck {
            vec![(middle, 1, 1), (middle, 3, stride), (outputs, 1, 1)]
        } else {
            vec![(middle, 3, stride), (outputs, 3, 1)]
        };
        let mut layers = Vec::with_capacity(convs.len());
        let mut channels = inputs;
        for (i, &(width, kernel, stride)) in convs.iter().enumerate() {
            let place = i + 1;
            let ratio = config.selective_kernels.filter(|_| kernel == 3);
            let made = if ratio.is_some() { 2 * width } else { width };
            let conv = config.conv(&b.pp(format!("conv{place}")), [channels, made], kernel, stride)?;
            let norm = config.norm(&b.pp(format!("bn{place}")), made, place == convs.len())?;
            let mix = ratio.map(|ratio| Mix::new(&b.pp("sk"), config, width, ratio)).transpose()?;
            layers.push(Layer { conv, norm, mix });
            channels = width;
        }
        let projection =
            plan.project.then(|| Projection::new(&b.pp("downsample"), config, plan)).transpose()?;
        Ok(Self { layers, projection })
    }
}

impl MapModule for Block {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let shortcut = match &self.projection {
            Some(projection) => projection.forward_map(x, mode)?,
            None => x.clone(),
        };
        let mut y = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            let last = i + 1 == self.layers.len();
            y = layer.norm.forward_relu(
                &layer.conv.forward_map(&y, mode)?,
                last.then_some(&shortcut),
                mode,
            )?;
            if let Some(mix) = &layer.mix {
                y = mix.forward_map(&y, mode)?;
            }
        }
        Ok(y)
    }
}

impl Projection {
    fn new(b: &Builder, config: &ResNetConfig, plan: Plan) -> Result<Self> {
        let pool = config
            .selective_kernels
            .map(|_| ShortcutPool::new(plan.inputs, plan.stride, &b.store().device()))
            .transpose()?;
        let stride = if pool.is_some() { 1 } else { plan.stride };
        let conv = config.conv(&b.pp(0), [plan.inputs, plan.outputs], 1, stride)?;
        Ok(Self { pool, conv, norm: config.norm(&b.pp(1), plan.outputs, false)? })
    }
}

impl MapModule for Projection {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let y = match &self.pool {
            Some(pool) => self.conv.forward_map(&pool.forward(x)?, mode)?,
            None => self.conv.forward_map(x, mode)?,
        };
        self.norm.forward_map(&y, mode)
    }
}
