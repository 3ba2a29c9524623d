//! Files that are there whole or not at all.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The folder that holds `path`.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Puts what `fill` writes at `path`: into a temporary file in the same folder, flushed to the disk, then renamed over
/// `path`, then the folder flushed, so that a crash at any moment leaves the old file or the new one.
///
/// The temporary file is called `.tmp-*`; it is removed on every error, and left behind only by a killed process.
///
/// # Errors
/// [`Error::Io`] naming `path` (no space, no permission), or the error of `fill`. The old file is then untouched.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = parent(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    // A temporary file is private by default; what it becomes should have the permissions of any new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(&folder).map_err(Error::io(path))?;
    let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file());
    fill(&mut writer)?;
    writer.flush().map_err(Error::io(path))?;
    // What is still buffered after a failed flush must not be written again while the writer is dropped.
    let _ = writer.into_parts();
    temporary.as_file().sync_all().map_err(Error::io(path))?;
    temporary.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), cause: e.error })?;
    // The rename itself lives in the folder. Only Unix can open a folder to flush it.
    #[cfg(unix)]
    File::open(&folder).and_then(|f| f.sync_all()).map_err(Error::io(&folder))?;
    Ok(())
}

/// How the names of unfinished files begin.
pub(crate) const TEMPORARY_PREFIX: &str = ".tmp-";
