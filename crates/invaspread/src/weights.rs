//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*` and `head.*`; an exported encoder holds the backbone under torchvision's
//! names, without prefix and without head. (The official code's own checkpoints, of which none was released, have
//! `net` with `module.*`, shortcuts as `shortcut.*` and the head as `linear.*`.)

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";
