//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*`, `projector.*`, `prototypes.weight` and the queues; an exported encoder holds
//! the backbone under torchvision's names. The official checkpoints call the same tensors `module.` + torchvision's
//! names, `module.projection_head.{0,1,3}.*` and `module.prototypes.weight`; [`PUBLISHED`] says so to the converter.

use contrastive_core::augment::{EvalTransform, Interpolation};
use contrastive_core::weights::published::{Branch, Published, imagenet_eval};

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the projector in the parameter store.
pub const PROJECTOR: &str = "projector";
/// Prefix of the prototypes in the parameter store.
pub const PROTOTYPES: &str = "prototypes";
/// The only tensor of the prototypes, `[K, D]`.
pub const PROTOTYPES_WEIGHT: &str = "prototypes.weight";
/// Name of the queues in the state: `queue.0` belongs to the first assigned view.
pub const QUEUE: &str = "queue";

/// The files of facebookresearch/swav: ResNets of every width.
pub const PUBLISHED: &[Published] = &[Published {
    method: "swav",
    file: "pretraining checkpoint",
    repository: "facebookresearch/swav",
    has: &["conv1.weight", "layer4.0.", "projection_head.", "prototypes."],
    lacks: &[],
    rows: None,
    branches: &[Branch {
        name: "online",
        // The published files are the dictionary itself; what the training script keeps has more beside it.
        tables: &["", "state_dict"],
        prefix: "",
        parts: &[("projection_head.", "projector."), ("prototypes.", "prototypes.")],
        beside: &[],
        backbone: true,
    }],
    attention_heads: &[],
    data: "imagenet-1k",
    licence: "CC-BY-NC-4.0",
    eval: || EvalTransform { std: vec![0.228, 0.224, 0.225], ..imagenet_eval(Interpolation::Bilinear) },
}];

/// A backbone of SwAV from a model repository of the Hub (`owner/name`), or from its cache: with its preprocessing,
/// branch, licence and commit. Weights without a manifest (timm's, those of `transformers`) say nothing of their method and
/// are taken.
///
/// # Errors
/// As [`contrastive_core::weights::Pretrained::load`]; weights of another method.
#[cfg(feature = "hub")]
pub fn load(repository: &str) -> contrastive_core::Result<contrastive_core::weights::Pretrained> {
    contrastive_core::weights::Pretrained::load(repository)?.of(&["swav"])
}
