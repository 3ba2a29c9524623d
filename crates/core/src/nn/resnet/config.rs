//! Settings of a ResNet.

use crate::kernels::ConvSettings;
use crate::nn::{BatchNorm, BatchNormConfig, BatchNormKind, Builder, Conv2d, Conv2dConfig, Init};

use super::conv::Conv;
use crate::{Error, Result};

/// What comes before the first group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stem {
    /// 7x7 convolution of stride 2 and 3x3 max pool of stride 2, padded on every side (torchvision).
    Imagenet,
    /// The same with TensorFlow's `SAME` padding of the pool: an even side by one pixel at its end alone (SimCLR, BYOL).
    ImagenetSame,
    /// 3x3 convolution of stride 1, no pool.
    Cifar,
}

/// How convolutions of a stride of 2 are padded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Padding {
    /// By the same on every side (torchvision, SimCLR).
    #[default]
    Symmetric,
    /// As TensorFlow's and JAX's `SAME`: an even side by one pixel more at its end than at its beginning (BYOL's Haiku code).
    Same,
}

impl Padding {
    /// Whether it is the usual one, which files do not mention.
    fn is_symmetric(&self) -> bool {
        *self == Self::Symmetric
    }
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

/// The depths that there are.
const DEPTHS: &str = "8, 14, 20, 32, 44, 56, 110, 18, 34, 50, 101, 152, 200";

/// Settings of a [`super::ResNet`].
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// 18, 34, 50, 101, 152 or 200; or 8, 14, 20, 32, 44, 56 or 110: the networks of three groups that He et al. trained on
    /// CIFAR-10.
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
    /// Selective kernels in the 3x3 convolutions of bottlenecks, as SimCLR v2 has them: the width of the squeeze as a
    /// part of the block's (0.0625). The ImageNet stem and the shortcuts are then ResNet-D's.
    #[serde(default)]
    pub selective_kernels: Option<f64>,
    /// Channels of the stem, where they are not the first group's before expansion: a half ResNet-50 with 32 keeps 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem_width: Option<usize>,
    /// How convolutions of a stride of 2 are padded; the pool is the stem's matter.
    #[serde(default, skip_serializing_if = "Padding::is_symmetric")]
    pub padding: Padding,
    /// Over which samples batch statistics are taken: the method's choice, not a setting in a file.
    #[serde(skip)]
    pub norm: BatchNormKind,
}

/// `resnet18`, with what differs from torchvision's network: `resnet18-cifar-w16`, `resnet50-x2-sk`.
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
        if let Some(width) = self.stem_width {
            write!(f, "-stem{width}")?;
        }
        if self.selective_kernels.is_some() {
            f.write_str("-sk")?;
        }
        if self.shortcut == Shortcut::ProjectFirst {
            f.write_str("-project")?;
        }
        if self.padding == Padding::Same {
            f.write_str("-pad")?;
        }
        if self.stem == Stem::ImagenetSame { f.write_str("-same") } else { Ok(()) }
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
            selective_kernels: None,
            stem_width: None,
            padding: Padding::Symmetric,
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
        let Ok((_, bottleneck)) = self.blocks() else {
            let reason = format!("{} is not one of {DEPTHS}", self.depth);
            return Err(Error::config(format!("{at}.depth"), reason));
        };
        let sizes = [
            ("base_width", self.base_width),
            ("width_multiplier", self.width_multiplier),
            ("in_channels", self.in_channels),
        ];
        if let Some((key, size)) = sizes.iter().find(|(_, size)| !(1..=4096).contains(size)) {
            return Err(Error::config(format!("{at}.{key}"), format!("{size} is not in 1..=4096")));
        }
        if let Some(width) = self.stem_width {
            if !(1..=4096).contains(&width) {
                return Err(Error::config(format!("{at}.stem_width"), format!("{width} is not in 1..=4096")));
            }
            if self.selective_kernels.is_some() || self.stem == Stem::ImagenetSame {
                let reason = "has no meaning beside selective kernels or the stem `imagenet-same`";
                return Err(Error::config(format!("{at}.stem_width"), reason));
            }
        }
        match self.selective_kernels {
            Some(ratio) if !(ratio > 0.0 && ratio <= 1.0) => {
                Err(Error::config(format!("{at}.selective_kernels"), format!("{ratio} is not in (0, 1]")))
            }
            Some(_) if !bottleneck => {
                let reason = format!("needs bottlenecks (depth 50 and more), got depth {}", self.depth);
                Err(Error::config(format!("{at}.selective_kernels"), reason))
            }
            _ => Ok(()),
        }
    }

    /// Channels of the stem and of the first group before expansion.
    pub(crate) fn base(&self) -> usize {
        self.base_width * self.width_multiplier
    }

    /// Channels of the stem.
    pub(crate) fn stem_channels(&self) -> usize {
        self.stem_width.unwrap_or(self.base())
    }

    /// Blocks of each group and whether they are bottlenecks.
    pub(crate) fn blocks(&self) -> Result<([usize; 4], bool)> {
        match self.depth {
            18 => Ok(([2, 2, 2, 2], false)),
            34 => Ok(([3, 4, 6, 3], false)),
            50 => Ok(([3, 4, 6, 3], true)),
            101 => Ok(([3, 4, 23, 3], true)),
            152 => Ok(([3, 8, 36, 3], true)),
            200 => Ok(([3, 24, 36, 3], true)),
            // 6n + 2 layers in three groups of n blocks; there is no fourth.
            depth @ (8 | 14 | 20 | 32 | 44 | 56 | 110) => {
                let blocks = (depth - 2) / 6;
                Ok(([blocks, blocks, blocks, 0], false))
            }
            depth => Err(Error::config("resnet.depth", format!("{depth}; allowed: {DEPTHS}"))),
        }
    }

    /// A convolution without bias, padded so that a stride of 1 keeps the side and one of 2 halves it.
    pub(super) fn conv(
        &self,
        b: &Builder,
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
    ) -> Result<Conv> {
        let settings = ConvSettings::square(stride, kernel / 2);
        let config = Conv2dConfig { kernel, settings, weight: self.conv_init, bias: None };
        let conv = Conv2d::new(b, inputs, outputs, config)?;
        // With a stride of 1 both paddings are the same.
        let same = (self.padding == Padding::Same && stride > 1).then_some((kernel, settings));
        Ok(Conv { conv, same })
    }

    /// A batch norm; `last` is a block's last one.
    pub(super) fn norm(&self, b: &Builder, channels: usize, last: bool) -> Result<BatchNorm> {
        let gamma = if last && self.zero_init_residual { 0.0 } else { 1.0 };
        let config = BatchNormConfig {
            gamma: Some(Init::Const(gamma)),
            kind: self.norm,
            ..BatchNormConfig::default()
        };
        BatchNorm::new(b, channels, config)
    }
}
