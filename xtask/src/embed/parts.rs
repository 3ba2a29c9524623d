//! Embeddings on disk while they are being made, so that an interrupted call goes on where it was.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::table::Rows;

/// A folder of parts: each has the rows of so many samples in order, without those that could not be read, and says
/// which call it is of.
pub struct Parts {
    folder: PathBuf,
    key: Value,
    count: usize,
}

/// Rows of a part, and the samples that could not be read, each with the reason.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part {
    /// Those that could be read.
    pub rows: Rows,
    /// The others.
    pub skipped: Vec<(String, String)>,
}

impl Parts {
    /// `count` parts of the call that `key` names, in a folder beside the file that they become.
    pub fn beside(out: &Path, key: Value, count: usize) -> Self {
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(".parts");
        Self { folder: out.with_file_name(name), key, count }
    }

    /// The number of parts.
    pub fn len(&self) -> usize {
        self.count
    }

    fn path(&self, i: usize) -> PathBuf {
        self.folder.join(format!("{i:06}.safetensors"))
    }

    /// A part that is there and of this call; broken ones and those of other calls are as good as absent.
    pub fn read(&self, i: usize) -> Option<Part> {
        let (rows, about) = Rows::load(&self.path(i)).ok()?;
        let skipped = serde_json::from_value(about.get("skipped")?.clone()).ok()?;
        (about.get("key") == Some(&self.key)).then_some(Part { rows, skipped })
    }

    /// Stores a part, whole or not at all.
    pub fn write(&self, i: usize, part: &Part) -> Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        part.rows.save(&self.path(i), &json!({"key": self.key, "skipped": part.skipped}))
    }

    /// A part that was there before.
    pub fn get(&self, i: usize) -> Result<Part> {
        self.read(i).with_context(|| format!("{}: changed since it was written", self.path(i).display()))
    }

    /// Takes the folder away.
    pub fn remove(self) -> Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| self.folder.display().to_string())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_other_calls_and_broken_ones_are_absent() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("x.npy");
        let parts = Parts::beside(&out, json!({"weights": "a"}), 2);
        let part = Part {
            rows: Rows { dim: 1, data: vec![2.0], names: vec!["n".into()], labels: vec![-1] },
            skipped: vec![("bad.png".into(), "broken".into())],
        };
        parts.write(1, &part)?;
        // Nothing could be read.
        parts.write(0, &Part { rows: Rows::default(), ..part.clone() })?;
        assert_eq!(parts.read(0).map(|p| (p.rows.len(), p.skipped.len())), Some((0, 1)));
        assert_eq!(parts.read(1), Some(part));
        assert_eq!(Parts::beside(&out, json!({"weights": "b"}), 2).read(1), None);
        let file = folder.path().join("x.npy.parts/000001.safetensors");
        let bytes = std::fs::read(&file)?;
        std::fs::write(&file, &bytes[..bytes.len() - 1])?;
        assert_eq!(parts.read(1), None);
        assert!(parts.get(1).is_err());
        parts.remove()?;
        assert!(!folder.path().join("x.npy.parts").exists());
        Ok(())
    }
}
