//! Names in checkpoints.
//!
//! A training checkpoint holds the encoders as `backbone.0.*` (brightness) and `backbone.1.*` (colour), their heads as
//! `head.0.*` and `head.1.*`, and as state one memory bank `[N, D]` for each view ([`bank_name`]) and [`Z`], two numbers
//! for each pair of views: from the first to the second, and back. An exported encoder holds both networks under `0.*`
//! and `1.*`, without heads.
//!
//! The official checkpoints hold the networks under `model` as `encoder.module.l_to_ab.*` and `encoder.module.ab_to_l.*`:
//! torchvision's names, or `conv_block_1.0.weight`, which are ours too, for AlexNet.

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the heads in the parameter store.
pub const HEAD: &str = "head";
/// The normalisation constants in the state; -1 before the first step.
pub const Z: &str = "z";
/// What the two sides of a colour split are called.
pub const SIDES: [&str; 2] = ["brightness", "colour"];

/// The memory bank of a view in the state.
pub fn bank_name(view: &str) -> String {
    format!("bank.{view}")
}
