//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*`, `projector.*` and `predictor.*`; an exported encoder holds the backbone
//! under torchvision's names, without prefix and without heads.
//!
//! The official checkpoints are PyTorch's (`state_dict`): `module.encoder.*` without the prefix is the backbone, but
//! `module.encoder.fc.*` is the projector (its last layer has a bias there that was never trained) and
//! `module.predictor.*` the predictor, both with the places of `nn.Sequential` that this crate's names have too.
//! [`PUBLISHED`] says so to the converter.

use contrastive_core::augment::Interpolation;
use contrastive_core::weights::published::{Branch, Published, imagenet_eval};

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the projector in the parameter store.
pub const PROJECTOR: &str = "projector";
/// Prefix of the predictor in the parameter store.
pub const PREDICTOR: &str = "predictor";

/// The files of facebookresearch/simsiam.
pub const PUBLISHED: &[Published] = &[Published {
    method: "simsiam",
    file: "pretraining checkpoint",
    repository: "facebookresearch/simsiam",
    has: &["encoder.conv1.weight", "encoder.fc.", "predictor."],
    lacks: &[],
    rows: None,
    branches: &[Branch {
        name: "online",
        tables: &["state_dict"],
        prefix: "encoder.",
        // The bias before the last batch norm was never trained, and does nothing.
        parts: &[("fc.6.bias", ""), ("fc.", "projector.")],
        beside: &[("predictor.", "predictor.")],
        backbone: true,
    }],
    attention_heads: &[],
    data: "imagenet-1k",
    licence: "CC-BY-NC-4.0",
    eval: || imagenet_eval(Interpolation::Bilinear),
}];

/// A backbone of SimSiam from a model repository of the Hub (`owner/name`), or from its cache: with its preprocessing,
/// branch, licence and commit. Weights without a manifest (timm's, those of `transformers`) say nothing of their method and
/// are taken.
///
/// # Errors
/// As [`contrastive_core::weights::Pretrained::load`]; weights of another method.
#[cfg(feature = "hub")]
pub fn load(repository: &str) -> contrastive_core::Result<contrastive_core::weights::Pretrained> {
    contrastive_core::weights::Pretrained::load(repository)?.of(&["simsiam"])
}
