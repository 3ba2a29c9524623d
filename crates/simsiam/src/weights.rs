//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*`, `projector.*` and `predictor.*`; an exported encoder holds the backbone
//! under torchvision's names, without prefix and without heads.
//!
//! The official checkpoints are PyTorch's (`state_dict`): `module.encoder.*` without the prefix is the backbone, but
//! `module.encoder.fc.*` is the projector (its last layer has a bias there that was never trained) and
//! `module.predictor.*` the predictor, both with the places of `nn.Sequential` that this crate's names have too.

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the projector in the parameter store.
pub const PROJECTOR: &str = "projector";
/// Prefix of the predictor in the parameter store.
pub const PREDICTOR: &str = "predictor";
