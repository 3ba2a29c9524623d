//! Names in checkpoints.
//!
//! A training checkpoint holds the student as `backbone.*` and `head.*`, the teacher as `momentum.backbone.*` and
//! `momentum.head.*`, and `centre`; an exported encoder holds the *teacher's* backbone under timm's or torchvision's
//! names, without prefix and without head, as the official backbone files do. Of an official full checkpoint
//! (`student`, `teacher`, `dino_loss`) take `teacher`, strip `module.` and then `backbone.`, and leave out `head.*`.

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";
/// The head's last layer, whose parameters are [held still](crate::DinoConfig::freeze_last_layer) at first.
pub const LAST_LAYER: &str = "head.last_layer.";
/// The centre of the teacher's outputs in a checkpoint.
pub const CENTRE: &str = "centre";
