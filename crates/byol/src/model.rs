//! The networks: encoder f, projector g and predictor q; encoder and projector twice.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::nn::{
    Activation, Backbone, BatchNormConfig, BatchNormKind, Builder, Encoder, Init, Mlp, MlpLayer, Mode, Module,
};

use crate::config::{ByolConfig, HeadConfig, HeadStyle};
use crate::weights::{BACKBONE, PREDICTOR, PROJECTOR};

/// `z = g(f(x))`: what the online and the target network share in form.
#[derive(Debug)]
pub struct Network {
    /// f: `[N, C, H, W]` to `[N, width]`.
    pub backbone: Backbone,
    /// g: `[N, width]` to `[N, D]`.
    pub projector: Mlp,
}

impl Network {
    /// The network with fresh parameters under `backbone.*` and `projector.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(b: &Builder, config: &ByolConfig) -> Result<Self> {
        let backbone = Backbone::new(&b.pp(BACKBONE), &config.backbone.with_norm(kind(config)))?;
        let layers = head_layers(&config.head, backbone.width(), config.head.hidden, kind(config));
        let projector = Mlp::new(&b.pp(PROJECTOR), backbone.width(), &layers)?;
        Ok(Self { backbone, projector })
    }
}

impl Module for Network {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.projector.forward(&self.backbone.forward(x, mode)?, mode)
    }
}

/// q: `[N, D]` to `[N, D]`, under `predictor.*`; none where the settings leave it out.
///
/// # Errors
/// Settings that no network has.
pub fn predictor(b: &Builder, config: &ByolConfig) -> Result<Option<Mlp>> {
    let head = &config.head;
    let layers = head_layers(head, head.output, head.predictor_hidden, kind(config));
    config.predictor.then(|| Mlp::new(&b.pp(PREDICTOR), head.output, &layers)).transpose()
}

fn kind(config: &ByolConfig) -> BatchNormKind {
    if config.sync_batch_norm { BatchNormKind::Sync } else { BatchNormKind::Local }
}

/// Linear, batch norm, ReLU, linear.
fn head_layers(head: &HeadConfig, inputs: usize, hidden: usize, kind: BatchNormKind) -> [MlpLayer; 2] {
    let layer = |inputs: usize, width: usize, bias: bool| {
        let (weight, start) = match head.style {
            HeadStyle::Official => (Init::TruncatedNormal(1.0 / (inputs as f64).sqrt()), Init::Const(0.0)),
            HeadStyle::Torch => (Init::TorchDefault, Init::TorchDefault),
        };
        MlpLayer { width, weight, bias: bias.then_some(start), norm: None, activation: Activation::None }
    };
    let norm = BatchNormConfig { kind, ..BatchNormConfig::default() };
    [layer(inputs, hidden, true).norm(norm).relu(), layer(hidden, head.output, head.last_bias)]
}
