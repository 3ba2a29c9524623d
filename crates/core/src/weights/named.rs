//! Networks of other libraries, under our names already, to `encoder.safetensors` and `heads.safetensors`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};

use super::convert::not_finite;
use super::expected::expected;
use super::infer::{Hints, Shapes, backbone, faults};
use super::{DataIdentity, MANIFEST_VERSION, Manifest, Origin, canonical_json, save_encoder};
use crate::augment::EvalTransform;
use crate::nn::BackboneConfig;
use crate::{Error, Result};

/// A network with what its manifest says.
#[derive(Debug, Clone)]
pub struct Named {
    /// The method's name on command lines.
    pub method: String,
    /// Which network it is (`online`).
    pub branch: String,
    /// The backbone under torchvision's or timm's names.
    pub backbone: Vec<(String, Tensor)>,
    /// What else there is, under the names of the method's parameter store.
    pub heads: Vec<(String, Tensor)>,
    /// What the shapes do not tell.
    pub hints: Hints,
    /// What evaluation does to an image.
    pub eval: EvalTransform,
    /// What it was trained on.
    pub data: String,
    /// The licence of the weights.
    pub licence: String,
    /// Whose code wrote the file.
    pub repository: String,
    /// Tensors of the file that are in neither.
    pub left_out: usize,
}

/// Refuses tensors with elements that are no finite real numbers. `origin` is the file they are from.
///
/// # Errors
/// [`Error::Format`] with the first tensor at fault.
pub fn check_numbers<'a>(
    origin: &Path,
    tensors: impl IntoIterator<Item = &'a (String, Tensor)>,
) -> Result<()> {
    for (name, tensor) in tensors {
        if !matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            let reason = format!("`{name}` holds {:?}, not real numbers", tensor.dtype());
            return Err(Error::format(origin, reason));
        }
        if let Some(value) = not_finite(tensor)? {
            return Err(Error::format(origin, format!("`{name}` holds {value}")));
        }
    }
    Ok(())
}

/// Writes them to the folder `out`, held against the backbone that the shapes say. `origin` is the file they are from.
///
/// # Errors
/// [`Error::Format`] for shapes of no backbone, elements that are no finite numbers; [`Error::Weights`] for missing,
/// unexpected or mis-shaped tensors; [`Error::Io`]. Nothing is written then.
pub fn save_named(
    named: &Named,
    origin: &Path,
    out: &Path,
) -> Result<(BackboneConfig, Vec<(PathBuf, usize)>)> {
    let refuse = |reason: String| Error::format(origin, reason);
    let shapes: Shapes = named.backbone.iter().map(|(name, t)| (name.clone(), t.dims().to_vec())).collect();
    let config = backbone(&shapes, named.hints).map_err(refuse)?;
    let [missing, unexpected, mismatched] = faults(&expected(&config).map_err(refuse)?, &shapes);
    if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
        return Err(Error::Weights { path: origin.to_path_buf(), missing, unexpected, mismatched });
    }
    check_numbers(origin, named.backbone.iter().chain(&named.heads))?;
    let eval = serde_json::to_value(&named.eval).map_err(|e| Error::config("eval", e.to_string()))?;
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        method: named.method.clone(),
        branch: named.branch.clone(),
        backbone: config.to_string(),
        preprocessing: canonical_json(&eval),
        data: DataIdentity { name: named.data.clone(), fingerprint: "unknown".to_string() },
        licence: named.licence.clone(),
        origin: Some(Origin::of(origin, &named.repository)?),
    };
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let mut written = Vec::new();
    for (name, tensors) in [("encoder.safetensors", &named.backbone), ("heads.safetensors", &named.heads)] {
        if !tensors.is_empty() {
            let path = out.join(name);
            save_encoder(&path, tensors, &manifest)?;
            written.push((path, tensors.len()));
        }
    }
    Ok((config, written))
}
