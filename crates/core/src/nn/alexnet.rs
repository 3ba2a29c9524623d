//! AlexNet (Krizhevsky et al. 2012) in the form that contrastive methods train: batch norm behind every layer instead of
//! local response normalisation and dropout.

use super::{
    BatchNorm, BatchNormConfig, BatchNormKind, Builder, Conv2d, Conv2dConfig, Encoder, Init, Linear, Mode,
    Module,
};
use crate::kernels::{ConvSettings, FeatureMap, max_pool2d};
use crate::{Error, Result};
use candle_core::Tensor;

/// Settings of an [`AlexNet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlexNetConfig {
    /// Channels of the input: 3, 1 or 2 of a colour split, 20 of a stack of flow fields.
    pub in_channels: usize,
    /// Channels of the five convolutions: 96, 256, 384, 384, 256; half of them in a split network.
    pub widths: [usize; 5],
    /// Width of the two hidden linear layers: 4096, or 2048.
    pub hidden: usize,
    /// Side of the square images in pixels, at least 63: 224. The first linear layer depends on it.
    pub image: usize,
    /// Over which samples batch statistics are taken: the method's choice, not a setting in a file.
    #[serde(skip)]
    pub norm: BatchNormKind,
}

/// Kernel, stride and padding of each convolution, and whether a 3x3 max pool of stride 2 follows it.
const LAYERS: [(usize, usize, usize, bool); 5] =
    [(11, 4, 2, true), (5, 1, 2, true), (3, 1, 1, false), (3, 1, 1, false), (3, 1, 1, true)];

impl AlexNetConfig {
    /// The whole network on 224 pixels; with 20 channels it is what reads stacks of flow.
    pub fn whole(in_channels: usize) -> Self {
        let (widths, norm) = ([96, 256, 384, 384, 256], BatchNormKind::Local);
        Self { in_channels, widths, hidden: 4096, image: 224, norm }
    }

    /// Half of every width: one side of a colour split.
    pub fn half(in_channels: usize) -> Self {
        let whole = Self::whole(in_channels);
        Self { widths: whole.widths.map(|width| width / 2), hidden: 2048, ..whole }
    }

    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        let fail = |key: &str, value: usize, range: &str| {
            Err(Error::config(format!("{at}.{key}"), format!("{value} is not in {range}")))
        };
        for (key, value) in [("in_channels", self.in_channels), ("hidden", self.hidden)] {
            if !(1..=65_536).contains(&value) {
                return fail(key, value, "1..=65536");
            }
        }
        if let Some(&width) = self.widths.iter().find(|width| !(1..=4096).contains(*width)) {
            return fail("widths", width, "1..=4096");
        }
        if (63..=1024).contains(&self.image) { Ok(()) } else { fail("image", self.image, "63..=1024") }
    }

    /// The sides of the maps behind each convolution and behind what pool follows it.
    pub(crate) fn sides(&self) -> [(usize, usize); 5] {
        let mut side = self.image;
        LAYERS.map(|(kernel, stride, padding, pool)| {
            let after = (side + 2 * padding).saturating_sub(kernel) / stride + 1;
            side = if pool { after.saturating_sub(3) / 2 + 1 } else { after };
            (after, side)
        })
    }

    /// Kernel sides of the convolutions.
    pub(crate) fn kernels() -> [usize; 5] {
        LAYERS.map(|(kernel, ..)| kernel)
    }
}

/// `alexnet-w48x128x192x192x128-h2048`, or plain `alexnet`.
impl std::fmt::Display for AlexNetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whole = Self::whole(self.in_channels);
        f.write_str("alexnet")?;
        if self.widths != whole.widths || self.hidden != whole.hidden {
            let widths: Vec<String> = self.widths.iter().map(usize::to_string).collect();
            write!(f, "-w{}-h{}", widths.join("x"), self.hidden)?;
        }
        Ok(())
    }
}

/// Images `[N, C, image, image]` to the second hidden layer, `[N, hidden]`.
///
/// Names are those of the official CMC code: `conv_block_1.0.weight`, `conv_block_1.1.*` (batch norm), `fc6.0.*`,
/// `fc6.1.*` and so on.
#[derive(Debug)]
pub struct AlexNet {
    convs: Vec<(Conv2d, BatchNorm, bool)>,
    linears: Vec<(Linear, BatchNorm)>,
    config: AlexNetConfig,
}

impl AlexNet {
    /// A network of this configuration.
    ///
    /// # Errors
    /// What [`AlexNetConfig::check`] refuses, a name that exists with another shape.
    pub fn new(b: &Builder, config: &AlexNetConfig) -> Result<Self> {
        config.check("alexnet")?;
        let norm = BatchNormConfig { kind: config.norm, ..BatchNormConfig::default() };
        let (mut convs, mut channels) = (Vec::with_capacity(LAYERS.len()), config.in_channels);
        for (i, ((kernel, stride, padding, pool), width)) in LAYERS.into_iter().zip(config.widths).enumerate()
        {
            let b = b.pp(format!("conv_block_{}", i + 1));
            let settings = ConvSettings::square(stride, padding);
            let conv = Conv2dConfig { kernel, settings, weight: Init::TorchDefault, bias: None };
            convs.push((
                Conv2d::new(&b.pp(0), channels, width, conv)?,
                BatchNorm::new(&b.pp(1), width, norm)?,
                pool,
            ));
            channels = width;
        }
        let last = config.sides()[4].1;
        let (mut linears, mut inputs) = (Vec::with_capacity(2), channels * last * last);
        for name in ["fc6", "fc7"] {
            let b = b.pp(name);
            linears.push((
                Linear::torch_default(&b.pp(0), inputs, config.hidden)?,
                BatchNorm::new(&b.pp(1), config.hidden, norm)?,
            ));
            inputs = config.hidden;
        }
        Ok(Self { convs, linears, config: *config })
    }

    /// The outputs `[N, C, H, W]` of the five convolutions, each behind the pool that follows it.
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn stages(&self, x: &Tensor, mode: &Mode) -> Result<Vec<FeatureMap>> {
        let AlexNetConfig { in_channels, image, .. } = self.config;
        if x.dims().len() != 4 || x.dims()[1..] != [in_channels, image, image] {
            return Err(Error::shape("alexnet", format!("[N, {in_channels}, {image}, {image}]"), x.dims()));
        }
        let (mut y, mut stages) = (FeatureMap::new(x)?, Vec::with_capacity(self.convs.len()));
        for (conv, norm, pool) in &self.convs {
            y = norm.forward_relu(&super::MapModule::forward_map(conv, &y, mode)?, None, mode)?;
            if *pool {
                y = max_pool2d(&y, 3, 2, 0)?;
            }
            stages.push(y.clone());
        }
        Ok(stages)
    }
}

impl Module for AlexNet {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let stages = self.stages(x, mode)?;
        let last = stages.last().ok_or_else(|| Error::config("alexnet.widths", "at least one layer"))?;
        let mut y = FeatureMap::from_rows(&last.tensor()?.flatten_from(1)?)?;
        for (linear, norm) in &self.linears {
            y = norm.forward_relu(&linear.forward_rows(&y, mode)?, None, mode)?;
        }
        y.rows()
    }
}

impl Encoder for AlexNet {
    fn width(&self) -> usize {
        self.config.hidden
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::dist::single;
    use crate::nn::ParamStore;

    /// The sides 27, 13, 13, 13 and 6, and half AlexNet's 4608 inputs of the first linear layer.
    #[test]
    fn maps_are_those_of_the_paper() -> Result<()> {
        let config = AlexNetConfig::half(2);
        assert_eq!(config.sides().map(|(_, side)| side), [27, 13, 13, 13, 6]);
        let store = ParamStore::new(0, &Device::Cpu);
        let net = AlexNet::new(&store.builder(), &config)?;
        let shape = |name: &str| store.get(name).map(|entry| entry.var.dims().to_vec());
        assert_eq!(shape("fc6.0.weight"), Some(vec![2048, 4608]));
        assert_eq!(shape("conv_block_1.0.weight"), Some(vec![48, 2, 11, 11]));
        assert!(store.get("conv_block_1.0.bias").is_none());
        assert!(
            net.forward(&Tensor::zeros((1, 2, 96, 96), DType::F32, &Device::Cpu)?, &Mode::eval()).is_err()
        );
        Ok(())
    }

    /// Every layer has a gradient; at the last one it is what differences give.
    #[test]
    fn gradients_reach_every_layer() -> Result<()> {
        let config =
            AlexNetConfig { widths: [4, 6, 4, 4, 4], hidden: 8, image: 63, ..AlexNetConfig::half(1) };
        let store = ParamStore::new(3, &Device::Cpu);
        let net = AlexNet::new(&store.builder(), &config)?;
        let values: Vec<f32> = (0..4 * 63 * 63).map(|i| ((i * i % 7919) as f32 * 0.37).sin()).collect();
        let x = Var::from_tensor(&Tensor::from_vec(values, (4, 1, 63, 63), &Device::Cpu)?)?;
        let weights: Vec<f32> = (0..32).map(|i| (i as f32 * 0.7).cos()).collect();
        let weights = Tensor::from_vec(weights, (4, 8), &Device::Cpu)?;
        let loss =
            || -> Result<Tensor> { Ok((net.forward(&x, &Mode::train(&single()))? * &weights)?.sum_all()?) };
        let gradients = loss()?.backward()?;
        for entry in store.parameters() {
            assert!(gradients.get(&entry.var).is_some(), "{}", entry.name);
        }
        let beta = store.get("fc7.1.bias").ok_or_else(|| Error::data("fc7.1.bias", "missing"))?.var;
        let analytic = gradients.get(&beta).ok_or_else(|| Error::data("fc7.1.bias", "no gradient"))?;
        let (analytic, old) = (analytic.to_vec1::<f32>()?, beta.to_vec1::<f32>()?);
        // The seventh has a sample at its kink.
        for place in 0..6 {
            let at = |delta: f32| -> Result<f32> {
                let mut values = old.clone();
                values[place] += delta;
                beta.set(&Tensor::from_vec(values, 8, &Device::Cpu)?)?;
                Ok(loss()?.to_scalar::<f32>()?)
            };
            let numeric = (at(1e-3)? - at(-1e-3)?) / 2e-3;
            assert!((numeric - analytic[place]).abs() < 2e-2, "{place}: {numeric}, {}", analytic[place]);
        }
        Ok(())
    }
}
