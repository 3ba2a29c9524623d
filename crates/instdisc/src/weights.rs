//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*`, `head.*`, and as state the memory bank [`BANK`] `[N, D]` and the
//! normalisation constant [`Z`] `[1]`; an exported encoder holds the backbone under torchvision's names, without prefix
//! and without head.
//!
//! The official checkpoints (`lemniscate_resnet18.pth`, `lemniscate_resnet50.pth`) hold the backbone under
//! `state_dict` as `module.*` with torchvision's names and the head as `module.fc.*`; beside it stands a pickled object
//! of the official code, the bank, which is skipped. [`PUBLISHED`] says so to the converter.

use contrastive_core::augment::Interpolation;
use contrastive_core::weights::published::{Branch, Published, imagenet_eval};

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";
/// The memory bank in the state.
pub const BANK: &str = "bank";
/// The normalisation constant in the state; -1 before the first step, as in the official code.
pub const Z: &str = "z";

/// The files of zhirongw/lemniscate.pytorch.
pub const PUBLISHED: &[Published] = &[Published {
    method: "instdisc",
    file: "pretraining checkpoint",
    repository: "zhirongw/lemniscate.pytorch",
    has: &["conv1.weight", "layer4.0.", "fc.weight"],
    lacks: &["projection_head.", "prototypes."],
    // A classifier has the same names, and 1000 rows.
    rows: Some(("fc.weight", 128)),
    branches: &[Branch {
        name: "online",
        tables: &["state_dict"],
        prefix: "",
        parts: &[("fc.", "head.0.")],
        beside: &[],
        backbone: true,
    }],
    attention_heads: &[],
    data: "imagenet-1k",
    licence: "unspecified",
    eval: || imagenet_eval(Interpolation::Bilinear),
}];

/// A backbone of InstDisc from a model repository of the Hub (`owner/name`), or from its cache: with its preprocessing,
/// branch, licence and commit. Weights without a manifest (timm's, those of `transformers`) say nothing of their method and
/// are taken.
///
/// # Errors
/// As [`contrastive_core::weights::Pretrained::load`]; weights of another method.
#[cfg(feature = "hub")]
pub fn load(repository: &str) -> contrastive_core::Result<contrastive_core::weights::Pretrained> {
    contrastive_core::weights::Pretrained::load(repository)?.of(&["instdisc"])
}
