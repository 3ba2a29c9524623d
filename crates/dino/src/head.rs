//! The head h: perceptron, l2 normalisation, weight-normed layer.

use candle_core::{D, Tensor};
use contrastive_core::Result;
use contrastive_core::kernels::{FeatureMap, linear};
use contrastive_core::nn::{
    Activation, BatchNormConfig, BatchNormKind, Builder, Init, Mlp, MlpLayer, Mode, Module,
};
use contrastive_core::tensor::l2_normalize;

use crate::config::HeadConfig;

/// What the head gives for M rows of features.
#[derive(Debug)]
pub struct HeadOutput {
    /// Unit embeddings `[M, bottleneck]`.
    pub embeddings: Tensor,
    /// The logits of the distributions, `[M, K]`.
    pub logits: Tensor,
}

/// Features `[M, width]` to logits `[M, K]`.
#[derive(Debug)]
pub struct DinoHead {
    mlp: Mlp,
    last_layer: LastLayer,
}

impl DinoHead {
    /// A head on features of width `inputs`, with fresh parameters under `mlp.*` and `last_layer.*`.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, config: &HeadConfig, norm: BatchNormKind) -> Result<Self> {
        let mlp = Mlp::new(&b.pp("mlp"), inputs, &layers(config, norm))?;
        Ok(Self { mlp, last_layer: LastLayer::new(&b.pp("last_layer"), config)? })
    }

    /// Applies the head.
    ///
    /// # Errors
    /// Features of another width.
    pub fn forward_all(&self, x: &Tensor, mode: &Mode) -> Result<HeadOutput> {
        let embeddings = l2_normalize(&self.mlp.forward(x, mode)?)?;
        Ok(HeadOutput { logits: self.last_layer.forward(&embeddings, mode)?, embeddings })
    }
}

impl Module for DinoHead {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        Ok(self.forward_all(x, mode)?.logits)
    }
}

/// GELU, and batch norm if wanted, after every layer but the last; weights N(0, 0.02²) cut at two deviations, biases 0.
fn layers(config: &HeadConfig, kind: BatchNormKind) -> Vec<MlpLayer> {
    let norm = BatchNormConfig { kind, ..BatchNormConfig::default() };
    (1..=config.layers)
        .map(|place| {
            let last = place == config.layers;
            MlpLayer {
                width: if last { config.bottleneck } else { config.hidden },
                weight: Init::TruncatedNormal(0.02),
                bias: Some(Init::Const(0.0)),
                norm: (config.batch_norm && !last).then_some(norm),
                activation: if last { Activation::None } else { Activation::Gelu },
            }
        })
        .collect()
}

/// A linear layer without bias, weight-normed (Salimans & Kingma 2016) or not: `x W^T`, and `W = g v / |v|` by rows.
///
/// Parameters are PyTorch's: `weight_v` `[K, I]` and `weight_g` `[K, 1]`, or `weight` `[K, I]` without weight norm. A g
/// that stays 1 is a buffer.
#[derive(Debug)]
pub struct LastLayer {
    weight: Tensor,
    scale: Option<Tensor>,
}

impl LastLayer {
    /// A layer from the bottleneck to the output; v begins as PyTorch's linear weights do, g with 1.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, config: &HeadConfig) -> Result<Self> {
        let shape = (config.output, config.bottleneck);
        if !config.weight_norm {
            return Ok(Self { weight: b.param("weight", shape, Init::TorchDefault)?, scale: None });
        }
        let scale = if config.norm_last_layer {
            b.buffer("weight_g", (config.output, 1), 1.0)?.as_detached_tensor()
        } else {
            b.param("weight_g", (config.output, 1), Init::Const(1.0))?
        };
        Ok(Self { weight: b.param("weight_v", shape, Init::TorchDefault)?, scale: Some(scale) })
    }

    /// W `[K, I]`. Its gradient goes through `v / |v|`.
    ///
    /// # Errors
    /// Candle's.
    pub fn weight(&self, mode: &Mode) -> Result<Tensor> {
        let v = mode.weight(&self.weight);
        match &self.scale {
            None => Ok(v),
            Some(g) => {
                let norm = v.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
                Ok(v.broadcast_mul(&(mode.weight(g) / norm)?)?)
            }
        }
    }
}

impl Module for LastLayer {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        linear(&FeatureMap::from_rows(x)?, &self.weight(mode)?, None)?.rows()
    }
}
