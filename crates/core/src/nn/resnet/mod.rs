//! ResNet (He et al. 2016) in torchvision's form, "v1.5": bottlenecks stride in their 3x3 convolution; with selective
//! kernels and ResNet-D's stem and shortcuts in the form of SimCLR v2.

mod block;
mod config;
mod conv;
mod pool;
mod selective;
mod stem;
#[cfg(test)]
mod tests;

use candle_core::Tensor;

use self::block::{Block, Plan};
use self::stem::StemLayers;
use super::{Builder, Encoder, MapModule, Mode, Module};
use crate::Result;
use crate::kernels::{FeatureMap, global_avg_pool};

pub(crate) use selective::squeezed;

pub use config::{Padding, ResNetConfig, Shortcut, Stem};

/// A ResNet without its classifier: `[N, C, H, W]` to features `[N, width]` after global average pooling.
///
/// Parameter names are torchvision's (`conv1.weight`, `bn1.*`, `layer1.0.conv1.weight`, `layer2.0.downsample.0.weight`).
/// With selective kernels the stem has timm's names (`conv1.0`, `conv1.3` and `conv1.6` are convolutions, `conv1.1`,
/// `conv1.4` and `bn1` their batch norms); `layer1.0.conv2` and `layer1.0.bn2` make both streams, one after the other;
/// and `layer1.0.sk.squeeze.weight`, `layer1.0.sk.bn.*` and `layer1.0.sk.expand.weight` weigh them. The pool of a
/// shortcut has no parameters and no place: `downsample.0` stays its convolution.
#[derive(Debug)]
pub struct ResNet {
    stem: StemLayers,
    blocks: Vec<Block>,
    width: usize,
}

impl ResNet {
    /// A network of this configuration.
    ///
    /// # Errors
    /// What [`ResNetConfig::check`] refuses, a name that exists with another shape.
    pub fn new(b: &Builder, config: &ResNetConfig) -> Result<Self> {
        config.check("resnet")?;
        let (counts, bottleneck) = config.blocks()?;
        let stem = StemLayers::new(b, config)?;
        let expansion = if bottleneck { 4 } else { 1 };
        let (mut blocks, mut channels) = (Vec::new(), config.stem_channels());
        for (group, &count) in counts.iter().enumerate() {
            let middle = config.base() << group;
            let outputs = middle * expansion;
            for i in 0..count {
                let stride = if i == 0 && group > 0 { 2 } else { 1 };
                let changes = stride != 1 || channels != outputs;
                let project = changes || (i == 0 && config.shortcut == Shortcut::ProjectFirst);
                let b = b.pp(format!("layer{}", group + 1)).pp(i);
                let plan = Plan { inputs: channels, middle, outputs, stride, bottleneck, project };
                blocks.push(Block::new(&b, config, plan)?);
                channels = outputs;
            }
        }
        Ok(Self { stem, blocks, width: channels })
    }

    /// The outputs `[N, C, H, W]` of the stem (after its pool) and of the four groups.
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn stages(&self, x: &Tensor, mode: &Mode) -> Result<Vec<FeatureMap>> {
        let mut y = self.stem.forward_map(&FeatureMap::new(x)?, mode)?;
        let mut stages = vec![y.clone()];
        let mut channels = None;
        for block in &self.blocks {
            y = block.forward_map(&y, mode)?;
            // Every group has twice the channels of the one before.
            let made = y.dims().get(1).copied();
            if made == channels {
                stages.pop();
            }
            channels = made;
            stages.push(y.clone());
        }
        Ok(stages)
    }
}

impl Module for ResNet {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let mut y = self.stem.forward_map(&FeatureMap::new(x)?, mode)?;
        for block in &self.blocks {
            y = block.forward_map(&y, mode)?;
        }
        global_avg_pool(&y)
    }
}

impl Encoder for ResNet {
    fn width(&self) -> usize {
        self.width
    }
}
