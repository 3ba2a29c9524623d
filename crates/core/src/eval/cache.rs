//! Features on disk, so that several protocols on one checkpoint extract once.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::features::Features;
use crate::{Error, Result};

/// Everything that features depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheKey {
    /// Hash of the weights.
    pub checkpoint: String,
    /// [`crate::data::Source::fingerprint`] of the data set.
    pub data: String,
    /// The preprocessing recipe as text, with the branch and layer that was read.
    pub preprocessing: String,
}

/// A folder of extracted features, one safetensors file per set (`train.safetensors`): `features` `[n, dim]` f32,
/// `labels` `[n]` u32, and the [`CacheKey`] in the header.
#[derive(Debug, Clone)]
pub struct FeatureCache {
    folder: PathBuf,
}

impl FeatureCache {
    /// In `folder`, which is made when something is stored.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The file of a set.
    pub fn path(&self, set: &str) -> PathBuf {
        self.folder.join(format!("{set}.safetensors"))
    }

    /// The stored features of `set` if they were made under exactly `key`; otherwise those of `compute`, which are
    /// stored in their place. A file that cannot be understood is treated as absent.
    ///
    /// # Errors
    /// Those of `compute`; [`Error::Io`] when the folder cannot be written.
    pub fn get_or_compute(
        &self,
        set: &str,
        key: &CacheKey,
        compute: impl FnOnce() -> Result<Features>,
    ) -> Result<Features> {
        let path = self.path(set);
        if let Some(features) = std::fs::read(&path).ok().and_then(|bytes| decode(&bytes, set, key)) {
            return Ok(features);
        }
        let features = compute()?;
        self.store(&path, key, &features)?;
        Ok(features)
    }

    fn store(&self, path: &Path, key: &CacheKey, features: &Features) -> Result<()> {
        let data: Vec<u8> = features.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        let labels: Vec<u8> = features.labels.iter().flat_map(|x| x.to_le_bytes()).collect();
        let fail = |e: safetensors::SafeTensorError| Error::format(path, e);
        let tensors = [
            ("features", TensorView::new(Dtype::F32, vec![features.n, features.dim], &data).map_err(fail)?),
            ("labels", TensorView::new(Dtype::U32, vec![features.labels.len()], &labels).map_err(fail)?),
        ];
        let key = serde_json::to_string(key).map_err(|e| Error::format(path, e))?;
        let header = HashMap::from([("key".to_string(), key)]);
        let bytes = safetensors::serialize(tensors, Some(header)).map_err(fail)?;
        std::fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder))?;
        // A reader sees the old file or the new one, never a part.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(Error::io(&self.folder))?;
        std::io::Write::write_all(&mut file, &bytes).map_err(Error::io(path))?;
        file.persist(path).map_err(|e| Error::io(path)(e.error))?;
        Ok(())
    }
}

fn decode(bytes: &[u8], set: &str, key: &CacheKey) -> Option<Features> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let stored: CacheKey = serde_json::from_str(header.metadata().as_ref()?.get("key")?).ok()?;
    if &stored != key {
        return None;
    }
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let (features, labels) = (tensors.tensor("features").ok()?, tensors.tensor("labels").ok()?);
    let &[n, dim] = features.shape() else { return None };
    if features.dtype() != Dtype::F32 || labels.dtype() != Dtype::U32 || labels.shape() != [n] {
        return None;
    }
    let data = features.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let labels = labels.data().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    Features::new(set, data, dim, labels).ok()
}
