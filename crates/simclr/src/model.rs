//! The networks: encoder f and head g, and what v2 keeps of both.

use candle_core::Tensor;
use contrastive_core::nn::{
    Activation, Backbone, BackboneConfig, BatchNormConfig, BatchNormKind, Builder, Encoder, Init, Mlp,
    MlpLayer, Mode, Module,
};
use contrastive_core::{Error, Result};

use crate::config::{HeadConfig, HeadStyle, SimClrConfig};
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
        let kind = norm_kind(config.sync_batch_norm);
        let backbone = Backbone::new(&b.pp(BACKBONE), &config.backbone.with_norm(kind))?;
        let layers = head_layers(&config.head, backbone.width(), kind);
        let head = Mlp::new(&b.pp(HEAD), backbone.width(), &layers)?;
        Ok(Self { backbone, head })
    }

    /// Features after the first `kept` layers of the head, each with its batch norm and ReLU: `[N, C, H, W]` to
    /// `[N, width]`. 0 is the backbone's output, v2 fine-tunes from 1, all layers give z.
    ///
    /// # Errors
    /// More layers than the head has; as [`Module::forward`].
    pub fn encode(&self, x: &Tensor, kept: usize, mode: &Mode) -> Result<Tensor> {
        let h = self.backbone.forward(x, mode)?;
        let Some(last) = kept.checked_sub(1) else { return Ok(h) };
        let mut outputs = self.head.forward_all(&h, mode)?;
        if last >= outputs.len() {
            let reason = format!("{kept} layers of a head that has {}", outputs.len());
            return Err(Error::config("kept_layers", reason));
        }
        Ok(outputs.swap_remove(last))
    }
}

impl Module for SimClrModel {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.head.forward(&self.backbone.forward(x, mode)?, mode)
    }
}

/// The backbone and the first layers of the head, without the rest: where v2's fine-tuning begins (`ft_proj_selector`).
#[derive(Debug)]
pub struct KeptEncoder {
    backbone: Backbone,
    head: Option<Mlp>,
    width: usize,
}

impl KeptEncoder {
    /// The networks with fresh parameters under `backbone.*` and `head.*`, named as in [`SimClrModel`]; no head where
    /// `kept` is 0.
    ///
    /// # Errors
    /// More layers than the head has; settings that no network has.
    pub fn new(
        b: &Builder,
        backbone: &BackboneConfig,
        head: &HeadConfig,
        kept: usize,
        kind: BatchNormKind,
    ) -> Result<Self> {
        let backbone = Backbone::new(&b.pp(BACKBONE), &backbone.with_norm(kind))?;
        if kept == 0 {
            return Ok(Self { width: backbone.width(), head: None, backbone });
        }
        let layers = head_layers(head, backbone.width(), kind);
        let Some(layers) = layers.get(..kept) else {
            let reason = format!("{kept} layers of a head that has {}", layers.len());
            return Err(Error::config("kept_layers", reason));
        };
        let head = Mlp::new(&b.pp(HEAD), backbone.width(), layers)?;
        Ok(Self { backbone, width: head.width(), head: Some(head) })
    }

    /// The backbone alone.
    pub fn backbone(&self) -> &Backbone {
        &self.backbone
    }

    /// What the encoder makes of the backbone's output `h`: `[N, backbone width]` to `[N, width]`.
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn forward_head(&self, h: &Tensor, mode: &Mode) -> Result<Tensor> {
        match &self.head {
            Some(head) => head.forward(h, mode),
            None => Ok(h.clone()),
        }
    }
}

impl Module for KeptEncoder {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.forward_head(&self.backbone.forward(x, mode)?, mode)
    }
}

impl Encoder for KeptEncoder {
    fn width(&self) -> usize {
        self.width
    }
}

/// Statistics over all ranks or each rank's own.
pub(crate) fn norm_kind(sync: bool) -> BatchNormKind {
    if sync { BatchNormKind::Sync } else { BatchNormKind::Local }
}

/// No biases, batch norm after every layer, ReLU after all but the last.
fn head_layers(head: &HeadConfig, width: usize, kind: BatchNormKind) -> Vec<MlpLayer> {
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
