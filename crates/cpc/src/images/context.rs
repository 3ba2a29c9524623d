//! The context network over rows of patches (CPC v2, appendix): a masked PixelCNN.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::kernels::{ConvSettings, FeatureMap, conv2d, relu, residual};
use contrastive_core::nn::{Builder, Init, MapModule, Mode};

use super::config::RowContextConfig;

/// Cross-correlation with a kernel that need not be square.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
    settings: ConvSettings,
}

impl Conv {
    /// PyTorch's initial weights. `padding` is at the top, bottom, left and right.
    fn new(b: &Builder, channels: [usize; 2], kernel: [usize; 2], padding: [usize; 4]) -> Result<Self> {
        let ([inputs, outputs], [height, width]) = (channels, kernel);
        let bound = 1.0 / ((inputs * height * width).max(1) as f64).sqrt();
        Ok(Self {
            weight: b.param("weight", (outputs, inputs, height, width), Init::TorchDefault)?,
            bias: b.param("bias", outputs, Init::Uniform(bound))?,
            settings: ConvSettings { padding, ..ConvSettings::default() },
        })
    }
}

impl MapModule for Conv {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        conv2d(x, &mode.weight(&self.weight), Some(&mode.weight(&self.bias)), self.settings)
    }
}

/// What is added to the block's input: 1x1 to the inner width, ReLU, 1x3 along the row, 2x1 down to the row from the one
/// above it (zeros above the first), ReLU, 1x1 back.
#[derive(Debug)]
struct Block {
    reduce: Conv,
    across: Conv,
    down: Conv,
    expand: Conv,
}

impl Block {
    fn new(b: &Builder, channels: usize, width: usize) -> Result<Self> {
        Ok(Self {
            reduce: Conv::new(&b.pp("conv1"), [channels, width], [1, 1], [0; 4])?,
            across: Conv::new(&b.pp("conv2"), [width, width], [1, 3], [0, 0, 1, 1])?,
            down: Conv::new(&b.pp("conv3"), [width, width], [2, 1], [1, 0, 0, 0])?,
            expand: Conv::new(&b.pp("conv4"), [width, channels], [1, 1], [0; 4])?,
        })
    }
}

impl MapModule for Block {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let y = relu(&self.reduce.forward_map(x, mode)?)?;
        let y = self.down.forward_map(&self.across.forward_map(&y, mode)?, mode)?;
        residual(x, &self.expand.forward_map(&relu(&y)?, mode)?, None)
    }
}

/// g_ar over a grid of vectors: maps `[N, D, rows, cols]` to contexts of the same shape. A context depends on its own row
/// and on as many rows above it as there are blocks, on none below. ReLU follows the last block.
///
/// Parameters are `blocks.{i}.conv{1..4}.{weight,bias}`, in the order of the convolutions above.
#[derive(Debug)]
pub struct RowContext {
    blocks: Vec<Block>,
}

impl RowContext {
    /// A fresh network over vectors of width `channels`.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, channels: usize, config: &RowContextConfig) -> Result<Self> {
        let block = |i: usize| Block::new(&b.pp("blocks").pp(i), channels, config.width);
        Ok(Self { blocks: (0..config.blocks).map(block).collect::<Result<_>>()? })
    }
}

impl MapModule for RowContext {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let mut map = x.clone();
        for block in &self.blocks {
            map = block.forward_map(&map, mode)?;
        }
        relu(&map)
    }
}
