//! Settings of a [`super::PatchNet`].

use crate::nn::Init;
use crate::{Error, Result};

/// What comes before the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatchStem {
    /// 7x7 convolution of stride 2 and 3x3 max pool of stride 2, for patches of 64 pixels.
    Imagenet,
    /// 5x5 convolution of stride 1 (Greedy InfoMax).
    Conv5,
    /// 3x3 convolution of stride 1.
    Conv3,
}

impl PatchStem {
    pub(super) fn kernel(self) -> usize {
        match self {
            Self::Imagenet => 7,
            Self::Conv5 => 5,
            Self::Conv3 => 3,
        }
    }
}

/// How weights and biases begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PatchInit {
    /// PyTorch's default: both uniform in `1 / sqrt(fan_in)`. Weights behind a ReLU then keep a sixth of the variance, so
    /// that outputs begin smaller than the pixels, with a larger share from the biases.
    Torch,
    /// Biases 0, weights `N(0, 2 / fan_in)`; those of the last convolution of every branch are divided by the square
    /// root of the number of blocks, so that the sum over all branches keeps the size of its input.
    Scaled,
}

/// Settings of a [`super::PatchNet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchNetConfig {
    /// Channels of the images.
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Distance of neighbouring patches in pixels.
    pub stride: usize,
    /// What comes before the first stage.
    pub stem: PatchStem,
    /// Channels of the stem and of the first stage's inner convolutions; doubled with every stage.
    pub channels: usize,
    /// Bottleneck blocks of the three stages.
    pub blocks: [usize; 3],
    /// How weights begin.
    pub init: PatchInit,
}

/// `preact-3-4-23-p64s32`, with the channels where they are not 64.
impl std::fmt::Display for PatchNetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { blocks: [a, b, c], patch, stride, channels, .. } = self;
        write!(f, "preact-{a}-{b}-{c}")?;
        if *channels != 64 {
            write!(f, "-w{channels}")?;
        }
        write!(f, "-p{patch}s{stride}")
    }
}

impl PatchNetConfig {
    /// The stages of ResNet-v2-101 up to the third on gray patches of 64 pixels, 32 apart.
    pub fn paper() -> Self {
        Self {
            in_channels: 1,
            patch: 64,
            stride: 32,
            stem: PatchStem::Imagenet,
            channels: 64,
            blocks: [3, 4, 23],
            init: PatchInit::Torch,
        }
    }

    /// Greedy InfoMax's: those of ResNet-50 on patches of 16 pixels, 8 apart.
    pub fn greedy_infomax() -> Self {
        Self { patch: 16, stride: 8, stem: PatchStem::Conv5, blocks: [3, 4, 6], ..Self::paper() }
    }

    /// The width of a patch's vector: 16 times [`PatchNetConfig::channels`].
    pub fn width(&self) -> usize {
        16 * self.channels
    }

    /// Rows and columns of patches of an image; whatever is left at the right and the bottom is not seen.
    ///
    /// # Errors
    /// [`Error::Shape`] for an image that holds no patch.
    pub fn grid(&self, height: usize, width: usize) -> Result<[usize; 2]> {
        if height < self.patch || width < self.patch || self.stride == 0 {
            return Err(Error::shape(
                "patches",
                format!("images of {} pixels or more", self.patch),
                &[height, width],
            ));
        }
        Ok([height, width].map(|side| (side - self.patch) / self.stride + 1))
    }

    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        let sizes = [
            ("in_channels", self.in_channels, 4096),
            ("patch", self.patch, 4096),
            ("stride", self.stride, self.patch),
            ("channels", self.channels, 4096),
        ];
        for (key, size, most) in sizes {
            if !(1..=most).contains(&size) {
                return Err(Error::config(format!("{at}.{key}"), format!("{size} is not in 1..={most}")));
            }
        }
        if self.blocks.iter().any(|count| !(1..=256).contains(count)) {
            let reason = format!("{:?} are not three numbers in 1..=256", self.blocks);
            return Err(Error::config(format!("{at}.blocks"), reason));
        }
        Ok(())
    }

    /// How weight and bias of a convolution with `fan_in` inputs for each output begin.
    pub(super) fn beginnings(&self, fan_in: usize, role: Role) -> (Init, Init) {
        let fan_in = fan_in.max(1) as f64;
        let blocks = self.blocks.iter().sum::<usize>().max(1) as f64;
        match self.init {
            PatchInit::Torch => (Init::TorchDefault, Init::Uniform(1.0 / fan_in.sqrt())),
            PatchInit::Scaled => {
                let variance = match role {
                    Role::Pixels => 1.0 / fan_in,
                    Role::Inner => 2.0 / fan_in,
                    Role::Last => 2.0 / (fan_in * blocks),
                };
                (Init::Normal(variance.sqrt()), Init::Const(0.0))
            }
        }
    }
}

/// What a convolution is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Sees normalised pixels.
    Pixels,
    /// Sees the output of a ReLU.
    Inner,
    /// The same, and its output is added to what the block began with.
    Last,
}
