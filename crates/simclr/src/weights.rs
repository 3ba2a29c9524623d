//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*` and `head.*`; an exported encoder holds the backbone under torchvision's
//! names, without prefix and without head (the official v1 checkpoints have no head either). A classifier adds
//! `head_supervised.*`, the official code's name, which its LARS leaves out of decay and trust ratio.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use contrastive_core::{Result, weights};

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";
/// Prefix of a classifier's logits in the parameter store.
pub const LOGITS: &str = "head_supervised";

/// The networks in a file under the names of a parameter store: of a training checkpoint the model, of an exported
/// encoder the backbone, of other files all tensors as they are.
///
/// # Errors
/// A file that is no whole safetensors file.
pub fn read(path: &Path) -> Result<HashMap<String, Tensor>> {
    let (tensors, _) = weights::load(path)?;
    let strip = |(name, t): (&String, &Tensor)| Some((name.strip_prefix("model/")?.to_string(), t.clone()));
    let model: HashMap<String, Tensor> = tensors.iter().filter_map(strip).collect();
    if !model.is_empty() {
        return Ok(model);
    }
    let prefixed = |name: &String| name.split_once('.').is_some_and(|(first, _)| first == BACKBONE);
    if tensors.keys().any(prefixed) {
        return Ok(tensors);
    }
    Ok(tensors.into_iter().map(|(name, t)| (format!("{BACKBONE}.{name}"), t)).collect())
}
