//! The networks: encoder f and head g.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::nn::{Backbone, BatchNormKind, Builder, Encoder, Mlp, MlpLayer, Mode, Module};
use contrastive_core::tensor::l2_normalize;

use crate::config::InstDiscConfig;
use crate::weights::{BACKBONE, HEAD};

/// `v = g(f(image)) / ‖g(f(image))‖`.
#[derive(Debug)]
pub struct InstDiscModel {
    /// f: `[N, C, H, W]` to `[N, width]`.
    pub backbone: Backbone,
    /// g: `[N, width]` to `[N, D]`, one linear layer with bias.
    pub head: Mlp,
}

impl InstDiscModel {
    /// The networks with fresh parameters under `backbone.*` and `head.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(b: &Builder, config: &InstDiscConfig) -> Result<Self> {
        let kind = if config.sync_batch_norm { BatchNormKind::Sync } else { BatchNormKind::Local };
        let backbone = Backbone::new(&b.pp(BACKBONE), &config.backbone.with_norm(kind))?;
        let head = Mlp::new(&b.pp(HEAD), backbone.width(), &[MlpLayer::linear(config.output)])?;
        Ok(Self { backbone, head })
    }

    /// Features `[N, width]` to unit embeddings `[N, D]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn embed(&self, features: &Tensor, mode: &Mode) -> Result<Tensor> {
        l2_normalize(&self.head.forward(features, mode)?)
    }
}

impl Module for InstDiscModel {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.embed(&self.backbone.forward(x, mode)?, mode)
    }
}
