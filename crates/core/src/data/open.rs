//! One way in for `--data DIR`: finds out what a folder holds.

use std::path::Path;
use std::sync::Arc;

use crate::augment::Image;
use crate::{Error, Result};

use super::{ImageFolder, Source, Split, cifar_binary};

/// Opens a path as images. Tried in this order:
///
/// 1. a `.parquet` file, or a folder with parquet files of the split (`train-*.parquet`, `train/*.parquet`, also in
///    sub-folders such as `plain_text/`), in the Hub's layout (feature `hub`);
/// 2. CIFAR's binary files ([`cifar_binary`]);
/// 3. an image folder: `DIR/train` or `DIR/test` (else `DIR/val`) where there is one, else for [`Split::Train`] the
///    folder itself ([`ImageFolder`]).
///
/// # Errors
/// [`Error::Data`] naming the path if it does not exist or holds nothing for the split, and what the kind's own reader
/// reports.
pub fn open(path: impl AsRef<Path>, split: Split) -> Result<Arc<dyn Source<Sample = Image>>> {
    let path = path.as_ref();
    let shown = path.display().to_string();
    if !path.exists() {
        return Err(Error::data(shown, "the folder does not exist"));
    }
    if let Some(source) = open_parquet_at(path, split)? {
        return Ok(source);
    }
    if !path.is_dir() {
        return Err(Error::data(shown, "not a folder and not a parquet file"));
    }
    if let Some(source) = cifar_binary(path, split)? {
        return Ok(Arc::new(source));
    }
    let names: &[&str] = match split {
        Split::Train => &["train"],
        Split::Test => &["test", "val"],
    };
    if let Some(folder) = names.iter().map(|name| path.join(name)).find(|folder| folder.is_dir()) {
        return Ok(Arc::new(ImageFolder::open(folder)?));
    }
    match split {
        Split::Train => Ok(Arc::new(ImageFolder::open(path)?)),
        Split::Test => Err(Error::data(shown, "no test part: expected a sub-folder `test` or `val`")),
    }
}

#[cfg(feature = "hub")]
fn open_parquet_at(path: &Path, split: Split) -> Result<Option<Arc<dyn Source<Sample = Image>>>> {
    let files = super::parquet_file::files_of_split(path, split)?;
    if files.is_empty() {
        return Ok(None);
    }
    let stem = path.file_stem().map_or_else(|| "parquet".into(), |n| n.to_string_lossy().into_owned());
    let name = if path.is_dir() { format!("{stem}-{}", split.name()) } else { stem };
    Ok(Some(Arc::new(super::open_parquet(&name, &files, None)?)))
}

#[cfg(not(feature = "hub"))]
fn open_parquet_at(path: &Path, _split: Split) -> Result<Option<Arc<dyn Source<Sample = Image>>>> {
    if path.extension().is_some_and(|e| e == "parquet") {
        let reason = "parquet files need a build with feature `hub`";
        return Err(Error::data(path.display().to_string(), reason));
    }
    Ok(None)
}
