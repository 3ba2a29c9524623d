//! The networks: the encoder (backbone and head) that exists twice, and v3's predictor.

use candle_core::Tensor;
use contrastive_core::Result;
use contrastive_core::nn::{
    Backbone, BackboneConfig, BatchNormConfig, BatchNormKind, Builder, Encoder, Mlp, MlpLayer, Mode, Module,
};

use crate::config::{HeadsConfig, QueueConfig, V3Config};
use crate::vit;
use crate::weights::{BACKBONE, HEAD, PREDICTOR, PROJECTOR};

/// Backbone and head: the query or the key encoder of v1 and v2, the base or the momentum encoder of v3.
#[derive(Debug)]
pub struct MocoEncoder {
    /// `[N, C, H, W]` to `[N, width]`.
    pub backbone: Backbone,
    /// The head of v1 and v2, the projector of v3: `[N, width]` to `[N, D]`.
    pub head: Mlp,
}

impl MocoEncoder {
    /// An encoder of v1 or v2 with fresh parameters under `backbone.*` and `head.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn queue(b: &Builder, config: &QueueConfig) -> Result<Self> {
        let kind = match config.bn_groups {
            1 => BatchNormKind::Sync,
            groups => BatchNormKind::Split(groups),
        };
        let backbone = Backbone::new(&b.pp(BACKBONE), &config.backbone.with_norm(kind))?;
        let hidden = config.head.hidden.map(|width| MlpLayer::linear(width).relu());
        let layers: Vec<MlpLayer> =
            hidden.into_iter().chain([MlpLayer::linear(config.head.output)]).collect();
        let head = Mlp::new(&b.pp(HEAD), backbone.width(), &layers)?;
        Ok(Self { backbone, head })
    }

    /// An encoder of v3 with fresh parameters under `backbone.*` and `projector.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn v3(b: &Builder, config: &V3Config) -> Result<Self> {
        let at = b.pp(BACKBONE);
        if let BackboneConfig::Vit(vit) = &config.backbone {
            vit::declare(&at, vit)?;
        }
        let backbone = Backbone::new(&at, &config.backbone.with_norm(BatchNormKind::Sync))?;
        if let (BackboneConfig::Vit(vit), Some(transformer)) = (&config.backbone, &config.transformer)
            && transformer.sin_cos
        {
            vit::fix_positions(b, vit)?;
        }
        let heads = &config.heads;
        let layers = mlp(heads, heads.projector_layers, true);
        let head = Mlp::new(&b.pp(PROJECTOR), backbone.width(), &layers)?;
        Ok(Self { backbone, head })
    }
}

impl Module for MocoEncoder {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        self.head.forward(&self.backbone.forward(x, mode)?, mode)
    }
}

/// v3's predictor under `predictor.*`: `[N, D]` to `[N, D]`.
///
/// # Errors
/// Settings that no network has.
pub fn predictor(b: &Builder, heads: &HeadsConfig) -> Result<Mlp> {
    Mlp::new(&b.pp(PREDICTOR), heads.output, &mlp(heads, 2, heads.predictor_norm))
}

/// v3's heads: no biases, batch norm and ReLU after all but the last layer, and behind that batch norm without gamma and
/// beta where `last_norm` says so.
fn mlp(heads: &HeadsConfig, layers: usize, last_norm: bool) -> Vec<MlpLayer> {
    let norm = BatchNormConfig { kind: BatchNormKind::Sync, ..BatchNormConfig::default() };
    (1..=layers)
        .map(|place| {
            let last = place == layers;
            let linear = MlpLayer::linear(if last { heads.output } else { heads.hidden }).without_bias();
            match (heads.batch_norm, last) {
                (true, false) => linear.norm(norm).relu(),
                (true, true) if last_norm => linear.norm(norm.without_affine()),
                (false, false) => linear.relu(),
                (_, true) => linear,
            }
        })
        .collect()
}
