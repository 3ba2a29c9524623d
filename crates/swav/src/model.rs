//! The networks: encoder f, head g and prototypes C.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::nn::{
    Backbone, BatchNormConfig, BatchNormKind, Builder, Encoder, Init, Linear, Mlp, MlpLayer, Mode, Module,
};
use contrastive_core::tensor::l2_normalize;

use crate::config::SwavConfig;
use crate::weights::{BACKBONE, PROJECTOR, PROTOTYPES};

/// `scores = C z`, `z = g(f(x)) / ‖g(f(x))‖`.
#[derive(Debug)]
pub struct SwavModel {
    /// f: `[N, C, H, W]` to `[N, width]`.
    pub backbone: Backbone,
    /// g: `[N, width]` to `[N, D]`.
    pub projector: Mlp,
    /// C: `[N, D]` to `[N, K]`, without bias.
    pub prototypes: Linear,
}

impl SwavModel {
    /// The networks with fresh parameters under `backbone.*`, `projector.*` and `prototypes.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(b: &Builder, config: &SwavConfig) -> Result<Self> {
        let kind = if config.sync_batch_norm { BatchNormKind::Sync } else { BatchNormKind::Local };
        let norm = BatchNormConfig { kind, ..BatchNormConfig::default() };
        let backbone = Backbone::new(&b.pp(BACKBONE), &config.backbone.with_norm(kind))?;
        let (hidden, output) = (config.projector.hidden, config.projector.output);
        let layers = [MlpLayer::linear(hidden).norm(norm).relu(), MlpLayer::linear(output)];
        let projector = Mlp::new(&b.pp(PROJECTOR), backbone.width(), &layers)?;
        let init = Init::TorchDefault;
        let prototypes = Linear::new(&b.pp(PROTOTYPES), output, config.prototypes, init, None)?;
        Ok(Self { backbone, projector, prototypes })
    }

    /// Features `[V·N, width]` of V views `[N, C, H, W]` in order. Views that follow each other at one resolution pass
    /// through the backbone as one batch, which is also one batch for its batch norm.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn features(&self, views: &[Tensor], mode: &Mode) -> Result<Tensor> {
        let same_size = views.chunk_by(|a, b| a.dims() == b.dims());
        let features = same_size.map(|crops| self.backbone.forward(&Tensor::cat(crops, 0)?, mode));
        Ok(Tensor::cat(&features.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// Unit embeddings `[N, D]` of features `[N, width]`: of all views at once.
    ///
    /// # Errors
    /// As [`SwavModel::features`].
    pub fn embed(&self, features: &Tensor, mode: &Mode) -> Result<Tensor> {
        l2_normalize(&self.projector.forward(features, mode)?)
    }
}
