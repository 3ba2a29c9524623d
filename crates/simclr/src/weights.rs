//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*` and `head.*`; an exported encoder holds the backbone under torchvision's
//! names, without prefix and without head (the official v1 checkpoints have no head either).

/// Prefix of the backbone in the parameter store.
pub const BACKBONE: &str = "backbone";
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";
