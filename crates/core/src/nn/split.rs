//! Networks side by side, each over channels of its own: the two halves of a colour split (Tian, Krishnan, Isola,
//! *Contrastive Multiview Coding*, 2020, section 4.1).

use candle_core::Tensor;

use super::{AlexNet, AlexNetConfig, BatchNormKind, Builder, Encoder, Mode, Module, ResNet, ResNetConfig};
use crate::kernels::FeatureMap;
use crate::{Error, Result};

/// Settings of a [`Split`].
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// The channels of the first and of the second view, in the order of the image's: `[1, 2]` for L and ab.
    pub channels: [usize; 2],
    /// Each half; its own `in_channels` does not count.
    pub half: HalfConfig,
}

/// What a half is; in a file, the table's `kind` is `"resnet"` or `"alexnet"`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum HalfConfig {
    /// A residual network.
    Resnet(ResNetConfig),
    /// AlexNet.
    Alexnet(AlexNetConfig),
}

impl HalfConfig {
    fn with_channels(self, in_channels: usize) -> Self {
        match self {
            Self::Resnet(config) => Self::Resnet(ResNetConfig { in_channels, ..config }),
            Self::Alexnet(config) => Self::Alexnet(AlexNetConfig { in_channels, ..config }),
        }
    }
}

impl SplitConfig {
    /// Brightness against colour, both halves alike.
    pub fn brightness_and_colour(half: HalfConfig) -> Self {
        Self { channels: [1, 2], half }
    }

    /// Both halves with their channels.
    pub(crate) fn halves(&self) -> [HalfConfig; 2] {
        self.channels.map(|channels| self.half.with_channels(channels))
    }

    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        if let Some(count) = self.channels.iter().find(|count| !(1..=4096).contains(*count)) {
            return Err(Error::config(format!("{at}.channels"), format!("{count} is not in 1..=4096")));
        }
        let at = format!("{at}.half");
        match &self.half {
            HalfConfig::Resnet(config) => config.check(&at),
            HalfConfig::Alexnet(config) => config.check(&at),
        }
    }

    /// The same with batch statistics over `norm`.
    #[must_use]
    pub fn with_norm(self, norm: BatchNormKind) -> Self {
        let half = match self.half {
            HalfConfig::Resnet(config) => HalfConfig::Resnet(ResNetConfig { norm, ..config }),
            HalfConfig::Alexnet(config) => HalfConfig::Alexnet(AlexNetConfig { norm, ..config }),
        };
        Self { half, ..self }
    }
}

/// `split1+2-resnet18-cifar-w8`.
impl std::fmt::Display for SplitConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "split{}+{}-", self.channels[0], self.channels[1])?;
        match &self.half {
            HalfConfig::Resnet(config) => config.fmt(f),
            HalfConfig::Alexnet(config) => config.fmt(f),
        }
    }
}

#[derive(Debug)]
enum Half {
    Resnet(ResNet),
    Alexnet(AlexNet),
}

impl Half {
    fn new(b: &Builder, config: &HalfConfig) -> Result<Self> {
        Ok(match config {
            HalfConfig::Resnet(config) => Self::Resnet(ResNet::new(b, config)?),
            HalfConfig::Alexnet(config) => Self::Alexnet(AlexNet::new(b, config)?),
        })
    }

    fn encoder(&self) -> &dyn Encoder {
        match self {
            Self::Resnet(network) => network,
            Self::Alexnet(network) => network,
        }
    }

    fn stages(&self, x: &Tensor, mode: &Mode) -> Result<Vec<FeatureMap>> {
        match self {
            Self::Resnet(network) => network.stages(x, mode),
            Self::Alexnet(network) => network.stages(x, mode),
        }
    }
}

/// Images `[N, C, H, W]` to the concatenated features of both halves, `[N, width]`. Parameters of the halves are named
/// `0.*` and `1.*`.
#[derive(Debug)]
pub struct Split {
    halves: [Half; 2],
    channels: [usize; 2],
}

impl Split {
    /// Two networks with parameters of their own.
    ///
    /// # Errors
    /// What [`SplitConfig::check`] refuses, a name that exists with another shape.
    pub fn new(b: &Builder, config: &SplitConfig) -> Result<Self> {
        config.check("split")?;
        let [first, second] = config.halves();
        Ok(Self {
            halves: [Half::new(&b.pp(0), &first)?, Half::new(&b.pp(1), &second)?],
            channels: config.channels,
        })
    }

    /// The width of each half's features.
    pub fn widths(&self) -> [usize; 2] {
        [self.halves[0].encoder().width(), self.halves[1].encoder().width()]
    }

    /// The channels of each view of images `[N, C, H, W]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for images with other channels.
    pub fn parts(&self, x: &Tensor) -> Result<[Tensor; 2]> {
        let [a, b] = self.channels;
        if x.dims().len() != 4 || x.dims()[1] != a + b {
            return Err(Error::shape("split network", format!("[N, {}, H, W]", a + b), x.dims()));
        }
        Ok([x.narrow(1, 0, a)?.contiguous()?, x.narrow(1, a, b)?.contiguous()?])
    }

    /// The features of each view by itself, `[N, widths[v]]`.
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn views(&self, x: &Tensor, mode: &Mode) -> Result<[Tensor; 2]> {
        let [first, second] = self.parts(x)?;
        let [a, b] = &self.halves;
        Ok([a.encoder().forward(&first, mode)?, b.encoder().forward(&second, mode)?])
    }

    /// The outputs of the halves' stages, each as one map of both halves' channels.
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn stages(&self, x: &Tensor, mode: &Mode) -> Result<Vec<FeatureMap>> {
        let [first, second] = self.parts(x)?;
        let [a, b] = &self.halves;
        let pairs = a.stages(&first, mode)?.into_iter().zip(b.stages(&second, mode)?);
        pairs.map(|(a, b)| FeatureMap::new(&Tensor::cat(&[a.tensor()?, b.tensor()?], 1)?)).collect()
    }
}

impl Module for Split {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        Ok(Tensor::cat(&self.views(x, mode)?, 1)?)
    }
}

impl Encoder for Split {
    fn width(&self) -> usize {
        self.widths().iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::{Backbone, BackboneConfig, ParamStore};

    #[test]
    fn each_half_sees_its_own_channels() -> Result<()> {
        let half = ResNetConfig { base_width: 4, ..ResNetConfig::cifar(18) };
        let config = SplitConfig::brightness_and_colour(HalfConfig::Resnet(half));
        let store = ParamStore::new(1, &Device::Cpu);
        let net = Split::new(&store.builder(), &config)?;
        let values: Vec<f32> = (0..2 * 3 * 64).map(|i| (i as f32 * 0.61).sin()).collect();
        let x = Tensor::from_vec(values, (2, 3, 8, 8), &Device::Cpu)?;
        let gray = Tensor::cat(&[x.narrow(1, 0, 1)?, x.narrow(1, 1, 2)?.zeros_like()?], 1)?;
        let (colour, gray) = (net.views(&x, &Mode::eval())?, net.views(&gray, &Mode::eval())?);
        assert_eq!(colour[0].to_vec2::<f32>()?, gray[0].to_vec2::<f32>()?);
        assert_ne!(colour[1].to_vec2::<f32>()?, gray[1].to_vec2::<f32>()?);
        assert_eq!(net.forward(&x, &Mode::eval())?.dims(), [2, net.width()]);
        let stages = net.stages(&x, &Mode::eval())?;
        assert_eq!(stages.len(), 5);
        assert_eq!(stages[4].dims(), [2, 64, 1, 1]);
        assert!(net.parts(&x.narrow(1, 0, 2)?).is_err());
        assert!(store.get("1.conv1.weight").is_some_and(|entry| entry.var.dims() == [4, 2, 3, 3]));
        Ok(())
    }

    /// ResNet-50 at half width keeps the 64 channels of its stem.
    #[test]
    fn a_stem_can_be_wider_than_its_network() -> Result<()> {
        let half = ResNetConfig { base_width: 4, stem_width: Some(8), ..ResNetConfig::torchvision(50) };
        let config = BackboneConfig::Split(SplitConfig::brightness_and_colour(HalfConfig::Resnet(half)));
        assert_eq!(config.to_string(), "split1+2-resnet50-w4-stem8");
        let store = ParamStore::new(1, &Device::Cpu);
        Backbone::new(&store.builder(), &config)?;
        let shape = |name: &str| store.get(name).map(|entry| entry.var.dims().to_vec());
        assert_eq!(shape("0.conv1.weight"), Some(vec![8, 1, 7, 7]));
        assert_eq!(shape("1.layer1.0.conv1.weight"), Some(vec![4, 8, 1, 1]));
        let real: usize = store.parameters().iter().map(|entry| entry.var.elem_count()).sum();
        let counted = config.cost(64)?.parameters as f64;
        assert!((counted / real as f64 - 1.0).abs() < 0.01, "{counted}, really {real}");
        Ok(())
    }
}
