//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*` and `head.*`; an exported encoder holds the backbone under torchvision's
//! names, without prefix and without head. (The official code's own checkpoints, of which none was released, have
//! `net` with `module.*`, shortcuts as `shortcut.*` and the head as `linear.*`.)

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";

/// A backbone of InvaSpread from a model repository of the Hub (`owner/name`), or from its cache: with its preprocessing,
/// branch, licence and commit. Weights without a manifest (timm's, those of `transformers`) say nothing of their method and
/// are taken.
///
/// # Errors
/// As [`contrastive_core::weights::Pretrained::load`]; weights of another method.
#[cfg(feature = "hub")]
pub fn load(repository: &str) -> contrastive_core::Result<contrastive_core::weights::Pretrained> {
    contrastive_core::weights::Pretrained::load(repository)?.of(&["invaspread"])
}
