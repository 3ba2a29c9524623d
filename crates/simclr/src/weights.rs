//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*` and `head.*`; an exported encoder holds the backbone under torchvision's
//! names, without prefix and without head (the official v1 checkpoints have no head either).

use candle_core::Tensor;
use contrastive_core::nn::ParamStore;

/// Prefix of the backbone in the parameter store.
pub const BACKBONE: &str = "backbone";
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";

/// The backbone's tensors under torchvision's names.
pub fn backbone(params: &ParamStore) -> Vec<(String, Tensor)> {
    let strip = |name: String| name.strip_prefix(BACKBONE)?.strip_prefix('.').map(str::to_string);
    params.tensors().into_iter().filter_map(|(name, t)| strip(name).map(|name| (name, t))).collect()
}
