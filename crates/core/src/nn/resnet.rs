//! ResNet (He et al. 2016) in torchvision's form, "v1.5": bottlenecks stride in their 3x3 convolution.

use candle_core::Tensor;

use super::{
    BatchNorm, BatchNormConfig, BatchNormKind, Builder, Conv2d, Conv2dConfig, Encoder, Init, MapModule,
    MaxPool2d, Mode, Module,
};
use crate::kernels::{ConvSettings, FeatureMap, global_avg_pool};
use crate::{Error, Result};

/// What comes before the first group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stem {
    /// 7x7 convolution of stride 2 and 3x3 max pool of stride 2.
    Imagenet,
    /// 3x3 convolution of stride 1, no pool.
    Cifar,
}

/// Which residual blocks have a projection in their shortcut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shortcut {
    /// Those that change the shape (torchvision).
    WhereNeeded,
    /// The first of every group (SimCLR's TensorFlow code; differs for ResNet-18 and -34).
    ProjectFirst,
}

/// Settings of a [`ResNet`].
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// 18, 34, 50, 101 or 152.
    pub depth: usize,
    /// Channels of the first group before expansion; 64 in the paper.
    pub base_width: usize,
    /// Multiplies every channel count including the stem's (SimCLR's and BYOL's 2x, 4x).
    pub width_multiplier: usize,
    /// The stem.
    pub stem: Stem,
    /// Whether gamma of the last batch norm of every block begins at 0.
    pub zero_init_residual: bool,
    /// Channels of the input.
    pub in_channels: usize,
    /// Which shortcuts are projections.
    pub shortcut: Shortcut,
    /// How convolutions begin: [`Init::KaimingNormalFanOut`] (torchvision), [`Init::VarianceScalingFanIn`] (SimCLR).
    pub conv_init: Init,
    /// Over which samples batch statistics are taken: the method's choice, not a setting in a file.
    #[serde(skip)]
    pub norm: BatchNormKind,
}

/// `resnet18`, with what differs from torchvision's network: `resnet18-cifar-w16`, `resnet50-x2`.
impl std::fmt::Display for ResNetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "resnet{}", self.depth)?;
        if self.stem == Stem::Cifar {
            f.write_str("-cifar")?;
        }
        if self.base_width != 64 {
            write!(f, "-w{}", self.base_width)?;
        }
        if self.width_multiplier != 1 {
            write!(f, "-x{}", self.width_multiplier)?;
        }
        if self.shortcut == Shortcut::ProjectFirst { f.write_str("-project") } else { Ok(()) }
    }
}

impl ResNetConfig {
    /// torchvision's network of this depth.
    pub fn torchvision(depth: usize) -> Self {
        Self {
            depth,
            base_width: 64,
            width_multiplier: 1,
            stem: Stem::Imagenet,
            zero_init_residual: false,
            in_channels: 3,
            shortcut: Shortcut::WhereNeeded,
            conv_init: Init::KaimingNormalFanOut,
            norm: BatchNormKind::Local,
        }
    }

    /// The same with the stem for small images.
    pub fn cifar(depth: usize) -> Self {
        Self { stem: Stem::Cifar, ..Self::torchvision(depth) }
    }

    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        if self.blocks().is_err() {
            let reason = format!("{} is not one of 18, 34, 50, 101, 152", self.depth);
            return Err(Error::config(format!("{at}.depth"), reason));
        }
        let sizes = [
            ("base_width", self.base_width),
            ("width_multiplier", self.width_multiplier),
            ("in_channels", self.in_channels),
        ];
        match sizes.iter().find(|(_, size)| !(1..=4096).contains(size)) {
            Some((key, size)) => {
                Err(Error::config(format!("{at}.{key}"), format!("{size} is not in 1..=4096")))
            }
            None => Ok(()),
        }
    }

    /// Blocks of each group and whether they are bottlenecks.
    fn blocks(&self) -> Result<([usize; 4], bool)> {
        match self.depth {
            18 => Ok(([2, 2, 2, 2], false)),
            34 => Ok(([3, 4, 6, 3], false)),
            50 => Ok(([3, 4, 6, 3], true)),
            101 => Ok(([3, 4, 23, 3], true)),
            152 => Ok(([3, 8, 36, 3], true)),
            depth => Err(Error::config("resnet.depth", format!("{depth}; allowed: 18, 34, 50, 101, 152"))),
        }
    }

    fn conv(
        &self,
        b: &Builder,
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<Conv2d> {
        let settings = ConvSettings::square(stride, kernel / 2);
        let config = Conv2dConfig { kernel, settings, weight: self.conv_init, bias: None };
        Conv2d::new(b, inputs, outputs, config)
    }

    fn norm(&self, b: &Builder, channels: usize, last: bool) -> Result<BatchNorm> {
        let gamma = if last && self.zero_init_residual { 0.0 } else { 1.0 };
        let config = BatchNormConfig {
            gamma: Some(Init::Const(gamma)),
            kind: self.norm,
            ..BatchNormConfig::default()
        };
        BatchNorm::new(b, channels, config)
    }
}

/// A residual block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1).
#[derive(Debug)]
struct Block {
    convs: Vec<(Conv2d, BatchNorm)>,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn new(
        b: &Builder,
        config: &ResNetConfig,
        [inputs, middle, outputs, stride]: [usize; 4],
        bottleneck: bool,
        project: bool,
    ) -> Result<Self> {
        // (outputs, kernel, stride) of each convolution.
        let plan = if bottleneck {
            vec![(middle, 1, 1), (middle, 3, stride), (outputs, 1, 1)]
        } else {
            vec![(middle, 3, stride), (outputs, 3, 1)]
        };
        let mut convs = Vec::with_capacity(plan.len());
        let mut channels = inputs;
        for (i, &(width, kernel, stride)) in plan.iter().enumerate() {
            let place = i + 1;
            let conv = config.conv(&b.pp(format!("conv{place}")), channels, width, kernel, stride)?;
            convs.push((conv, config.norm(&b.pp(format!("bn{place}")), width, place == plan.len())?));
            channels = width;
        }
        let downsample = if project {
            let b = b.pp("downsample");
            let conv = config.conv(&b.pp(0), inputs, outputs, 1, stride)?;
            Some((conv, config.norm(&b.pp(1), outputs, false)?))
        } else {
            None
        };
        Ok(Self { convs, downsample })
    }
}

impl MapModule for Block {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let shortcut = match &self.downsample {
            Some((conv, norm)) => norm.forward_map(&conv.forward_map(x, mode)?, mode)?,
            None => x.clone(),
        };
        let mut y = x.clone();
        for (i, (conv, norm)) in self.convs.iter().enumerate() {
            let last = i + 1 == self.convs.len();
            y = norm.forward_relu(&conv.forward_map(&y, mode)?, last.then_some(&shortcut), mode)?;
        }
        Ok(y)
    }
}

/// A ResNet without its classifier: `[N, C, H, W]` to features `[N, width]` after global average pooling.
///
/// Parameter names are torchvision's (`conv1.weight`, `bn1.*`, `layer1.0.conv1.weight`, `layer2.0.downsample.0.weight`).
#[derive(Debug)]
pub struct ResNet {
    conv: Conv2d,
    norm: BatchNorm,
    pool: Option<MaxPool2d>,
    blocks: Vec<Block>,
    width: usize,
}

impl ResNet {
    /// A network of this configuration.
    ///
    /// # Errors
    /// A depth that does not exist, widths of 0, a name that exists with another shape.
    pub fn new(b: &Builder, config: &ResNetConfig) -> Result<Self> {
        let (counts, bottleneck) = config.blocks()?;
        let base = config.base_width * config.width_multiplier;
        if base == 0 || config.in_channels == 0 {
            return Err(Error::config("resnet.base_width", "widths and input channels are at least 1"));
        }
        let (kernel, stride, pool) = match config.stem {
            Stem::Imagenet => (7, 2, Some(MaxPool2d { kernel: 3, stride: 2, padding: 1 })),
            Stem::Cifar => (3, 1, None),
        };
        let conv = config.conv(&b.pp("conv1"), config.in_channels, base, kernel, stride)?;
        let norm = config.norm(&b.pp("bn1"), base, false)?;
        let expansion = if bottleneck { 4 } else { 1 };
        let (mut blocks, mut channels) = (Vec::new(), base);
        for (group, &count) in counts.iter().enumerate() {
            let middle = base << group;
            let outputs = middle * expansion;
            for i in 0..count {
                let stride = if i == 0 && group > 0 { 2 } else { 1 };
                let changes = stride != 1 || channels != outputs;
                let project = changes || (i == 0 && config.shortcut == Shortcut::ProjectFirst);
                let b = b.pp(format!("layer{}", group + 1)).pp(i);
                blocks.push(Block::new(
                    &b,
                    config,
                    [channels, middle, outputs, stride],
                    bottleneck,
                    project,
                )?);
                channels = outputs;
            }
        }
        Ok(Self { conv, norm, pool, blocks, width: channels })
    }

    /// The outputs `[N, C, H, W]` of the stem (after its pool) and of the four groups.
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn stages(&self, x: &Tensor, mode: &Mode) -> Result<Vec<FeatureMap>> {
        let mut y = self.stem(x, mode)?;
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

    fn stem(&self, x: &Tensor, mode: &Mode) -> Result<FeatureMap> {
        let x = FeatureMap::new(x)?;
        let y = self.norm.forward_relu(&self.conv.forward_map(&x, mode)?, None, mode)?;
        match &self.pool {
            Some(pool) => pool.forward_map(&y, mode),
            None => Ok(y),
        }
    }
}

impl Module for ResNet {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let mut y = self.stem(x, mode)?;
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
