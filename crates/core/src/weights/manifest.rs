//! What an exported encoder says about itself.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{load, save};
use crate::{Error, Result};

/// The version of [`Manifest`] that this crate writes.
pub const MANIFEST_VERSION: u32 = 1;

/// A data set by name and content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataIdentity {
    /// [`crate::data::Source::name`].
    pub name: String,
    /// [`crate::data::Source::fingerprint`].
    pub fingerprint: String,
}

/// Everything that is needed to use an `encoder.safetensors` rightly. It is the metadata of that file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// The method that trained it (`simclr`).
    pub method: String,
    /// Which network this is (`online`, `target`, `teacher`).
    pub branch: String,
    /// The architecture (`resnet18`, `resnet18-cifar`).
    pub backbone: String,
    /// The preprocessing of an image before the network, as text: size, crop, mean, deviation.
    pub preprocessing: String,
    /// What it was trained on.
    pub data: DataIdentity,
    /// The licence of the weights, as an SPDX expression or the words of the data's owner.
    pub licence: String,
    /// What it was converted from; none for weights that were trained here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// The file that weights were converted from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The file's name, without folders.
    pub file: String,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub blake3: String,
    /// Whose layout it has (`facebookresearch/moco`).
    pub repository: String,
}

impl Origin {
    /// A file that is there, in the layout of `repository`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of(file: &Path, repository: &str) -> Result<Self> {
        Ok(Self {
            file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            blake3: super::convert::hash(file)?,
            repository: repository.to_string(),
        })
    }
}

/// Writes an encoder and its manifest.
///
/// # Errors
/// As [`save`].
pub fn save_encoder(path: &Path, tensors: &[(String, Tensor)], manifest: &Manifest) -> Result<()> {
    let value = serde_json::to_value(manifest).map_err(|e| Error::format(path, e))?;
    save(path, tensors, &value)
}

/// Reads an encoder and its manifest, which is `None` for files of other programs.
///
/// # Errors
/// As [`load`]; [`Error::Format`] for a manifest of another version or with wrong fields.
pub fn load_encoder(path: &Path) -> Result<(HashMap<String, Tensor>, Option<Manifest>)> {
    let (tensors, value) = load(path)?;
    if value.is_null() {
        return Ok((tensors, None));
    }
    let found = value.get("version").and_then(serde_json::Value::as_u64);
    if found != Some(u64::from(MANIFEST_VERSION)) {
        let found = found.map_or("none".to_string(), |v| v.to_string());
        return Err(Error::format(path, format!("manifest version {found}, not {MANIFEST_VERSION}")));
    }
    let manifest =
        serde_json::from_value(value).map_err(|e| Error::format(path, format!("manifest: {e}")))?;
    Ok((tensors, Some(manifest)))
}
