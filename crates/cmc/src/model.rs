//! The networks: an encoder and a linear head for each side of the split.

use candle_core::Tensor;
use contrastive_core::nn::{
    BACKBONE, BackboneConfig, BatchNormKind, Builder, Mlp, MlpLayer, Mode, Module, Split,
};
use contrastive_core::tensor::l2_normalize;
use contrastive_core::{Error, Result};

use crate::config::CmcConfig;
use crate::weights::HEAD;

/// `z = g(f(view)) / ‖g(f(view))‖` for each view, with networks of its own.
#[derive(Debug)]
pub struct CmcModel {
    /// f of both views: `[N, C, H, W]` to `[N, width]` each.
    pub backbone: Split,
    /// g of both views: `[N, width]` to `[N, D]`, one linear layer with bias.
    pub heads: [Mlp; 2],
}

impl CmcModel {
    /// The networks with fresh parameters under `backbone.*` and `head.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(b: &Builder, config: &CmcConfig) -> Result<Self> {
        let kind = if config.sync_batch_norm { BatchNormKind::Sync } else { BatchNormKind::Local };
        let BackboneConfig::Split(split) = config.backbone else {
            return Err(Error::config("backbone.kind", format!("must be `split`, got {}", config.backbone)));
        };
        let backbone = Split::new(&b.pp(BACKBONE), &split.with_norm(kind))?;
        let head = |view: usize| {
            Mlp::new(&b.pp(HEAD).pp(view), backbone.widths()[view], &[MlpLayer::linear(config.output)])
        };
        let heads = [head(0)?, head(1)?];
        Ok(Self { backbone, heads })
    }

    /// Features of each view to unit embeddings `[N, D]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn embed(&self, features: &[Tensor; 2], mode: &Mode) -> Result<[Tensor; 2]> {
        let of = |view: usize| l2_normalize(&self.heads[view].forward(&features[view], mode)?);
        Ok([of(0)?, of(1)?])
    }
}
