//! The networks: encoder f and head g.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::nn::{
    Activation, Backbone, BatchNormConfig, BatchNormKind, Builder, Encoder, Init, Mlp, MlpLayer, Mode, Module,
};

use crate::config::{HeadStyle, SimClrConfig};
use crate::weights::{BACKBONE, HEAD};

/// `z = g(f(x))`.
#[derive(Debug)]
pub struct SimClrModel {
    /// f: `[N, C, H, W]` to `[N, width]`.
    pub backbone: Backbone,
    /// g: `[N, width]` to `[N, D]`.
    pub head: Mlp,
}

impl SimClrModel {
    /// The networks with fresh parameters under `backbone.*` and `head.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(b: &Builder, config: &SimClrConfig) -> Result<Self> {
        let kind = if config.sync_batch_norm { BatchNormKind::Sync } else { BatchNormKind::Local };
        let backbone = Backbone::new(&b.pp(BACKBONE), &config.backbone.with_norm(kind))?;
        let layers = head_layers(config, backbone.width(), kind);
        let head = Mlp::new(&b.pp(HEAD), backbone.width(), &layers)?;
        Ok(Self { backbone, head })
    }
}

impl Module for SimClrModel {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.head.forward(&self.backbone.forward(x, mode)?, mode)
    }
}

/// No biases, batch norm after every layer, ReLU after all but the last.
fn head_layers(config: &SimClrConfig, width: usize, kind: BatchNormKind) -> Vec<MlpLayer> {
    let head = &config.head;
    let (weight, last_beta) = match head.style {
        HeadStyle::Official => (Init::Normal(0.01), None),
        HeadStyle::Torch => (Init::TorchDefault, Some(Init::Const(0.0))),
    };
    (1..=head.layers)
        .map(|place| {
            let last = place == head.layers;
            let norm = BatchNormConfig { kind, ..BatchNormConfig::default() };
            MlpLayer {
                width: if last { head.output } else { head.hidden.unwrap_or(width) },
                weight,
                bias: None,
                norm: Some(if last { BatchNormConfig { beta: last_beta, ..norm } } else { norm }),
                activation: if last { Activation::None } else { Activation::Relu },
            }
        })
        .collect()
}
