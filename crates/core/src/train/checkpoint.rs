//! Everything a run needs to go on, in one safetensors file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Method, Progress};
use crate::optim::Optimizer;
use crate::weights::{self, DataIdentity};
use crate::{Error, Result};

/// The format of the checkpoints that this crate writes and reads.
pub const CHECKPOINT_VERSION: u32 = 1;

const FORMAT: &str = "contrastive-checkpoint";
const SECTIONS: [&str; 4] = ["model", "state", "optim", "observer"];

/// What a checkpoint says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: String,
    version: u32,
    /// BLAKE3 of all tensors: safetensors itself would not notice a flipped bit.
    digest: String,
    /// [`Method::name`].
    pub method: String,
    /// `step` is the number of optimiser steps done.
    pub progress: Progress,
    /// The resolved settings of the run.
    pub config: Value,
    /// What was trained on.
    pub data: DataIdentity,
}

/// Whatever has state in a run.
pub struct Parts<'a> {
    /// Gives `model/…` (parameters and buffers) and `state/…`.
    pub method: &'a dyn Method,
    /// Gives `optim/…`.
    pub optimizer: &'a dyn Optimizer,
    /// State of observers by `<observer>/<tensor>`, for `observer/…`.
    pub observers: Vec<(String, Tensor)>,
}

/// A checkpoint in memory, checked to be whole.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    header: Header,
    sections: [HashMap<String, Tensor>; 4],
}

impl Checkpoint {
    /// Writes all parts to `path`, whole or not at all. Equal runs give equal bytes.
    ///
    /// # Errors
    /// As [`weights::save`].
    pub fn save(
        path: &Path,
        parts: Parts<'_>,
        progress: &Progress,
        config: &Value,
        data: &DataIdentity,
    ) -> Result<()> {
        let Parts { method, optimizer, observers } = parts;
        let parts = [method.params().tensors(), method.state()?, optimizer.state()?, observers];
        let mut tensors = Vec::new();
        for (section, part) in SECTIONS.iter().zip(parts) {
            tensors.extend(part.into_iter().map(|(name, t)| (format!("{section}/{name}"), t)));
        }
        let header = Header {
            format: FORMAT.to_string(),
            version: CHECKPOINT_VERSION,
            digest: weights::digest(tensors.iter().map(|(n, t)| (n.as_str(), t)))?,
            method: method.name().to_string(),
            progress: *progress,
            config: config.clone(),
            data: data.clone(),
        };
        let header = serde_json::to_value(header).map_err(|e| Error::format(path, e))?;
        weights::save(path, &tensors, &header)
    }

    /// Reads and checks a checkpoint.
    ///
    /// # Errors
    /// [`Error::Format`] for a damaged file, one that is no checkpoint, or one of another version; [`Error::Io`].
    pub fn load(path: &Path) -> Result<Self> {
        let (tensors, value) = weights::load(path)?;
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(Error::format(path, "not a checkpoint"));
        }
        let version = value.get("version").and_then(Value::as_u64);
        if version != Some(u64::from(CHECKPOINT_VERSION)) {
            let version = version.map_or("unknown".to_string(), |v| v.to_string());
            let reason = format!("checkpoint version {version}, this program reads {CHECKPOINT_VERSION}");
            return Err(Error::format(path, reason));
        }
        let header: Header = serde_json::from_value(value)
            .map_err(|e| Error::format(path, format!("checkpoint header: {e}")))?;
        if weights::digest(tensors.iter().map(|(n, t)| (n.as_str(), t)))? != header.digest {
            return Err(Error::format(path, "damaged: the checksum does not match the content"));
        }
        let mut sections: [HashMap<String, Tensor>; 4] = Default::default();
        for (full, tensor) in tensors {
            let place = full.split_once('/').and_then(|(section, name)| {
                SECTIONS.iter().position(|s| *s == section).map(|i| (i, name.to_string()))
            });
            let (i, name) =
                place.ok_or_else(|| Error::format(path, format!("unexpected tensor `{full}`")))?;
            sections[i].insert(name, tensor);
        }
        Ok(Self { path: path.to_path_buf(), header, sections })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The state of an observer, if it was there when the checkpoint was written.
    pub fn observer(&self, name: &str) -> Option<HashMap<String, Tensor>> {
        let own = |(full, t): (&String, &Tensor)| {
            full.strip_prefix(name)?.strip_prefix('/').map(|rest| (rest.to_string(), t.clone()))
        };
        let state: HashMap<_, _> = self.sections[3].iter().filter_map(own).collect();
        (!state.is_empty()).then_some(state)
    }

    /// Puts the method and the optimiser back. All names, shapes and element types are checked before anything changes; a method or
    /// optimiser that has no state yet (it makes it in its first step) checks for itself in `load_state`.
    ///
    /// # Errors
    /// [`Error::Weights`] listing every fault; [`Error::Format`] for a checkpoint of another method.
    pub fn restore(&self, method: &mut dyn Method, optimizer: &mut dyn Optimizer) -> Result<()> {
        if self.header.method != method.name() {
            let reason = format!("is of method `{}`, not `{}`", self.header.method, method.name());
            return Err(Error::format(&self.path, reason));
        }
        let current = [method.params().tensors(), method.state()?, optimizer.state()?];
        let (mut missing, mut unexpected, mut mismatched) = (Vec::new(), Vec::new(), Vec::new());
        for (i, expected) in current.iter().enumerate() {
            if i > 0 && expected.is_empty() {
                continue;
            }
            let (section, found) = (SECTIONS[i], &self.sections[i]);
            for (name, t) in expected {
                match found.get(name) {
                    None => missing.push(format!("{section}/{name}")),
                    Some(f) if f.dims() != t.dims() || f.dtype() != t.dtype() => mismatched.push(format!(
                        "{section}/{name}: expected {:?} {:?}, got {:?} {:?}",
                        t.dtype(),
                        t.dims(),
                        f.dtype(),
                        f.dims()
                    )),
                    Some(_) => {}
                }
            }
            let known: std::collections::HashSet<&String> = expected.iter().map(|(name, _)| name).collect();
            let surplus = found.keys().filter(|name| !known.contains(name));
            unexpected.extend(surplus.map(|name| format!("{section}/{name}")));
        }
        unexpected.sort();
        if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
            return Err(Error::Weights { path: self.path.clone(), missing, unexpected, mismatched });
        }
        let [model, state, optim, _] = &self.sections;
        optimizer.load_state(optim)?;
        method.load_state(state)?;
        method.params().load(model, &self.path)
    }
}

/// The checkpoints of a run: `checkpoint-<step>.safetensors`, of which the newest few stay.
#[derive(Debug, Clone)]
pub struct CheckpointFolder {
    folder: PathBuf,
}

impl CheckpointFolder {
    /// The folder at `folder`, which must exist.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// Where the checkpoint after `step` optimiser steps is.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("checkpoint-{step:08}.safetensors"))
    }

    /// All checkpoints by step, oldest first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(Error::io(&self.folder))? {
            let path = entry.map_err(Error::io(&self.folder))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let digits = name.strip_prefix("checkpoint-").and_then(|n| n.strip_suffix(".safetensors"));
            if let Some(step) = digits.and_then(|d| d.parse().ok()).filter(|step| self.path(*step) == path) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes all but the newest `keep`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn prune(&self, keep: usize) -> Result<()> {
        let all = self.list()?;
        for (_, path) in &all[..all.len().saturating_sub(keep.max(1))] {
            std::fs::remove_file(path).map_err(Error::io(path))?;
        }
        Ok(())
    }

    /// The newest checkpoint that is whole, and a warning for each newer one that is not. Damaged ones are renamed to
    /// `….damaged`, so that they neither count as kept nor are tried again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn latest(&self) -> Result<(Option<Checkpoint>, Vec<String>)> {
        let mut warnings = Vec::new();
        for (_, path) in self.list()?.into_iter().rev() {
            match Checkpoint::load(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), warnings)),
                Err(error @ Error::Format { .. }) => {
                    warnings.push(format!("{error}; going back to the checkpoint before it"));
                    let mut aside = path.clone().into_os_string();
                    aside.push(".damaged");
                    std::fs::rename(&path, aside).map_err(Error::io(&path))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, warnings))
    }
}
