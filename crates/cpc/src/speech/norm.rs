//! What follows a convolution of the encoder.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::kernels::{FeatureMap, layer_norm, relu};
use contrastive_core::nn::{BatchNorm, BatchNormConfig, Builder, Init, MapModule, Mode};

use super::config::Norm;

/// CPC_audio's epsilon, which is PyTorch's.
const EPS: f64 = 1e-5;

/// A normalisation with the ReLU behind it, for maps `[N, C, T]`.
#[derive(Debug)]
pub(super) enum NormRelu {
    None,
    Batch(BatchNorm),
    Channel(ChannelNorm),
}

impl NormRelu {
    pub(super) fn new(b: &Builder, norm: Norm, channels: usize) -> Result<Self> {
        Ok(match norm {
            Norm::None => Self::None,
            Norm::Batch => Self::Batch(BatchNorm::new(b, channels, BatchNormConfig::default())?),
            Norm::Channel => Self::Channel(ChannelNorm::new(b, channels)?),
        })
    }

    pub(super) fn forward(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        match self {
            Self::None => relu(x),
            Self::Batch(norm) => norm.forward_relu(x, None, mode),
            Self::Channel(norm) => relu(&norm.forward_map(x, mode)?),
        }
    }
}

/// `(x - mean) / sqrt(variance + eps) * weight + bias` over the C channels of each frame of `[N, C, T]`, where the variance
/// divides by C - 1 as CPC_audio's does.
#[derive(Debug)]
pub(super) struct ChannelNorm {
    weight: Tensor,
    bias: Tensor,
    channels: usize,
}

impl ChannelNorm {
    fn new(b: &Builder, channels: usize) -> Result<Self> {
        Ok(Self {
            weight: b.param("weight", channels, Init::Const(1.0))?,
            bias: b.param("bias", channels, Init::Const(0.0))?,
            channels,
        })
    }
}

impl MapModule for ChannelNorm {
    fn forward_map(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        // Layer norm divides by sqrt(v + eps) of the biased v = u (C - 1) / C; so sqrt(u + eps) is that of eps (C - 1) / C
        // by sqrt(C / (C - 1)).
        let share = (self.channels as f64 - 1.0) / self.channels as f64;
        let weight = (mode.weight(&self.weight) * share.sqrt())?;
        layer_norm(&x.sequence()?, &weight, &mode.weight(&self.bias), EPS * share)?.channels_first()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use contrastive_core::dist::single;
    use contrastive_core::nn::ParamStore;
    use contrastive_core::tensor::{GradCheck, check_gradients};

    use super::*;

    #[test]
    fn gradients_match_differences_and_the_variance_divides_by_one_less() -> Result<()> {
        let store = ParamStore::new(1, &Device::Cpu);
        let norm = ChannelNorm::new(&store.builder(), 3)?;
        let values: Vec<f32> = (0..2 * 3 * 4).map(|i| (i * 7 % 11) as f32 / 4.0).collect();
        let x = Tensor::from_vec(values.clone(), (2, 3, 4), &Device::Cpu)?;
        let mode = Mode::train(&single());
        let forward = |x: &Tensor| norm.forward_map(&FeatureMap::new(x)?, &mode)?.tensor();
        let frame = [values[0], values[4], values[8]].map(f64::from);
        let mean = frame.iter().sum::<f64>() / 3.0;
        let variance = frame.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 2.0;
        let found = forward(&x)?.to_vec3::<f32>()?[0][0][0];
        assert!((f64::from(found) - (frame[0] - mean) / (variance + EPS).sqrt()).abs() < 1e-5, "{found}");
        check_gradients(std::slice::from_ref(&x), GradCheck::default(), |x| forward(&x[0]))?;
        Ok(())
    }
}
