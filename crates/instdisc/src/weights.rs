//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*`, `head.*`, and as state the memory bank [`BANK`] `[N, D]` and the
//! normalisation constant [`Z`] `[1]`; an exported encoder holds the backbone under torchvision's names, without prefix
//! and without head.
//!
//! The official checkpoints (`lemniscate_resnet18.pth`, `lemniscate_resnet50.pth`) hold the backbone under
//! `state_dict` as `module.*` with torchvision's names and the head as `module.fc.*`; beside it stands a pickled object
//! of the official code, the bank, which needs that code to be read. Strip `module.` and drop `module.fc.*`.

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";
/// The memory bank in the state.
pub const BANK: &str = "bank";
/// The normalisation constant in the state; -1 before the first step, as in the official code.
pub const Z: &str = "z";
