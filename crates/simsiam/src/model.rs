//! The networks: encoder f, which is a backbone and a projector, and predictor h.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::nn::{
    Backbone, BatchNormConfig, BatchNormKind, Builder, Encoder, Mlp, MlpLayer, Mode, Module,
};

use crate::config::{HeadConfig, Predictor, SimSiamConfig};
use crate::weights::{BACKBONE, PREDICTOR, PROJECTOR};

/// `z = f(x)` and `p = h(z)`.
#[derive(Debug)]
pub struct SimSiamModel {
    /// The backbone of f: `[N, C, H, W]` to `[N, width]`.
    pub backbone: Backbone,
    /// The projector of f: `[N, width]` to `[N, D]`.
    pub projector: Mlp,
    /// h: `[N, D]` to `[N, D]`; none where the settings leave it out.
    pub predictor: Option<Mlp>,
}

impl SimSiamModel {
    /// The networks with fresh parameters under `backbone.*`, `projector.*` and `predictor.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(b: &Builder, config: &SimSiamConfig) -> Result<Self> {
        let kind = if config.sync_batch_norm { BatchNormKind::Sync } else { BatchNormKind::Local };
        let norm = BatchNormConfig { kind, ..BatchNormConfig::default() };
        let head = &config.head;
        let backbone = Backbone::new(&b.pp(BACKBONE), &config.backbone.with_norm(kind))?;
        let layers = projector_layers(head, backbone.width(), norm);
        let projector = Mlp::new(&b.pp(PROJECTOR), backbone.width(), &layers)?;
        let layers = [
            MlpLayer::linear(head.predictor_hidden).without_bias().norm(norm).relu(),
            MlpLayer::linear(head.output),
        ];
        let wanted = config.predictor != Predictor::None;
        let predictor = wanted.then(|| Mlp::new(&b.pp(PREDICTOR), head.output, &layers)).transpose()?;
        Ok(Self { backbone, projector, predictor })
    }

    /// Features `[N, width]`, projection and prediction `[N, D]` of one view.
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn forward(&self, x: &Tensor, mode: &Mode) -> Result<[Tensor; 3]> {
        let h = self.backbone.forward(x, mode)?;
        let z = self.projector.forward(&h, mode)?;
        let p = match &self.predictor {
            Some(predictor) => predictor.forward(&z, mode)?,
            None => z.clone(),
        };
        Ok([h, z, p])
    }
}

/// No biases, batch norm after every layer, ReLU after all but the last.
fn projector_layers(head: &HeadConfig, width: usize, norm: BatchNormConfig) -> Vec<MlpLayer> {
    let hidden = MlpLayer::linear(head.hidden.unwrap_or(width)).without_bias().norm(norm).relu();
    let last_norm = if head.last_affine { norm } else { norm.without_affine() };
    let mut layers = vec![hidden; head.layers.saturating_sub(1)];
    layers.push(MlpLayer::linear(head.output).without_bias().norm(last_norm));
    layers
}
