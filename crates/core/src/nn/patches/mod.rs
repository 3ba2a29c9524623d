//! The encoder of contrastive predictive coding on images: overlapping patches through a pre-activation ResNet without
//! batch norm, which would let a patch see the others.

mod config;
mod gather;
#[cfg(test)]
mod tests;

use candle_core::Tensor;

use self::config::Role;
use super::{Builder, Conv2d, Conv2dConfig, Encoder, MapModule, MaxPool2d, Mode, Module};
use crate::Result;
use crate::kernels::{ConvSettings, FeatureMap, global_avg_pool, relu, residual};

pub use config::{PatchInit, PatchNetConfig, PatchStem};
pub use gather::{PatchCrops, patches};

/// A convolution with bias whose beginning follows its [`Role`].
fn conv(
    b: &Builder,
    config: &PatchNetConfig,
    [inputs, outputs]: [usize; 2],
    [kernel, stride]: [usize; 2],
    role: Role,
) -> Result<Conv2d> {
    let (weight, bias) = config.beginnings(inputs * kernel * kernel, role);
    let settings = ConvSettings::square(stride, kernel / 2);
    Conv2d::new(b, inputs, outputs, Conv2dConfig { kernel, settings, weight, bias: Some(bias) })
}

/// A bottleneck of ResNet v2 (He et al. 2016): ReLU before each convolution, nothing after the sum. A shortcut that
/// changes the shape is a convolution of the first ReLU's output.
#[derive(Debug)]
struct Block {
    convs: [Conv2d; 3],
    shortcut: Option<Conv2d>,
}

impl Block {
    fn new(
        b: &Builder,
        config: &PatchNetConfig,
        [inputs, middle]: [usize; 2],
        stride: usize,
    ) -> Result<Self> {
        let outputs = 4 * middle;
        let make = |name: &str, channels, kernel, stride, role| {
            conv(&b.pp(name), config, channels, [kernel, stride], role)
        };
        Ok(Self {
            convs: [
                make("conv1", [inputs, middle], 1, 1, Role::Inner)?,
                make("conv2", [middle, middle], 3, stride, Role::Inner)?,
                make("conv3", [middle, outputs], 1, 1, Role::Last)?,
            ],
            shortcut: (stride != 1 || inputs != outputs)
                .then(|| make("shortcut", [inputs, outputs], 1, stride, Role::Inner))
                .transpose()?,
        })
    }
}

impl MapModule for Block {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let first = relu(x)?;
        let [conv1, conv2, conv3] = &self.convs;
        let branch = relu(&conv1.forward_map(&first, mode)?)?;
        let branch = relu(&conv2.forward_map(&branch, mode)?)?;
        let branch = conv3.forward_map(&branch, mode)?;
        match &self.shortcut {
            Some(shortcut) => residual(&shortcut.forward_map(&first, mode)?, &branch, None),
            None => residual(x, &branch, None),
        }
    }
}

/// Three stages of bottlenecks over each of the overlapping patches of an image; a patch's vector is the mean over its
/// places. As an [`Encoder`] it gives the mean of an image's vectors, `[N, width]`.
///
/// Parameters are `conv1.{weight,bias}` (the stem), `layer{1..3}.{i}.conv{1..3}.*` and `layer{1..3}.{i}.shortcut.*`.
/// Stages two and three begin with a stride of 2. There is no ReLU behind the last block.
#[derive(Debug)]
pub struct PatchNet {
    config: PatchNetConfig,
    stem: Conv2d,
    pool: Option<MaxPool2d>,
    blocks: Vec<Block>,
}

impl PatchNet {
    /// A network of this configuration.
    ///
    /// # Errors
    /// What [`PatchNetConfig::check`] refuses, a name that exists with another shape.
    pub fn new(b: &Builder, config: &PatchNetConfig) -> Result<Self> {
        config.check("backbone")?;
        let large = config.stem == PatchStem::Imagenet;
        let kernel = config.stem.kernel();
        let extents = [config.in_channels, config.channels];
        let stride = if large { 2 } else { 1 };
        let stem = conv(&b.pp("conv1"), config, extents, [kernel, stride], Role::Pixels)?;
        let pool = large.then_some(MaxPool2d { kernel: 3, stride: 2, padding: 1 });
        let (mut blocks, mut channels) = (Vec::new(), config.channels);
        for (stage, &count) in config.blocks.iter().enumerate() {
            let middle = config.channels << stage;
            for i in 0..count {
                let stride = if i == 0 && stage > 0 { 2 } else { 1 };
                let place = b.pp(format!("layer{}", stage + 1)).pp(i);
                blocks.push(Block::new(&place, config, [channels, middle], stride)?);
                channels = 4 * middle;
            }
        }
        Ok(Self { config: *config, stem, pool, blocks })
    }

    /// The settings.
    pub fn config(&self) -> &PatchNetConfig {
        &self.config
    }

    /// The vectors `[N, rows, cols, width]` of the patches of images `[N, C, H, W]`. No gradient goes to the images.
    ///
    /// # Errors
    /// As [`patches`]; another number of channels.
    pub fn vectors(&self, x: &Tensor, crops: Option<&PatchCrops>, mode: &Mode) -> Result<Tensor> {
        let parts = patches(x, self.config.patch, self.config.stride, crops)?;
        let (n, _, h, w) = x.dims4()?;
        let [rows, columns] = self.config.grid(h, w)?;
        let mut map = self.stem.forward_map(&FeatureMap::new(&parts)?, mode)?;
        if let Some(pool) = &self.pool {
            map = pool.forward_map(&map, mode)?;
        }
        for block in &self.blocks {
            map = block.forward_map(&map, mode)?;
        }
        Ok(global_avg_pool(&map)?.reshape((n, rows, columns, self.config.width()))?)
    }
}

impl Module for PatchNet {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        Ok(self.vectors(x, None, mode)?.flatten(1, 2)?.mean(1)?)
    }
}

impl Encoder for PatchNet {
    fn width(&self) -> usize {
        self.config.width()
    }
}
