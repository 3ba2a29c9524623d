//! Files of the Hub in its cache, whose layout is Python's.
//!
//! The Hub's library downloads into a temporary folder; what arrives is held against what the Hub said of it before it
//! gets its place. Nothing that a server answers becomes a path before it is checked.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler};
use hf_hub::repository::{RepoTreeEntry, RepoType, RepoTypeDataset, RepoTypeModel};
use hf_hub::{HFError, HFRepositorySync, HFResult};
use sha2::{Digest, Sha256};

use super::{HubSettings, Watch};
use crate::weights::TEMPORARY_PREFIX;

/// Files of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// For each group that was asked for its first file that is there.
    pub files: Vec<Option<PathBuf>>,
}

/// A kind of repository whose commits can be asked for.
pub(super) trait Kind: RepoType {
    /// The commit of a revision.
    fn commit(handle: &HFRepositorySync<Self>, revision: &str) -> HFResult<Option<String>>;
}

impl Kind for RepoTypeModel {
    fn commit(handle: &HFRepositorySync<Self>, revision: &str) -> HFResult<Option<String>> {
        Ok(handle.info().revision(revision).send()?.sha)
    }
}

impl Kind for RepoTypeDataset {
    fn commit(handle: &HFRepositorySync<Self>, revision: &str) -> HFResult<Option<String>> {
        Ok(handle.info().revision(revision).send()?.sha)
    }
}

/// Why there are no files.
pub(super) enum Fault {
    /// The Hub has no such repository, revision or file.
    Absent(String),
    /// Anything else, in words.
    Other(String),
}

impl From<HFError> for Fault {
    fn from(error: HFError) -> Self {
        let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        match error {
            HFError::AuthRequired { .. } => Self::Other(format!("the Hub wants a token (HF_TOKEN): {text}")),
            HFError::Forbidden { .. } => Self::Other(format!("the token gives no access: {text}")),
            HFError::RateLimited { .. } => {
                Self::Other(format!("the Hub has had too many requests, try again later: {text}"))
            }
            HFError::RepoNotFound { .. }
            | HFError::RevisionNotFound { .. }
            | HFError::EntryNotFound { .. } => Self::Absent(text),
            _ => Self::Other(text),
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Fault {
    let path = path.display().to_string();
    move |error| Fault::Other(format!("{path}: {error}"))
}

/// Whether a text is so many hexadecimal digits.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The folder of a repository in the cache.
pub(super) fn folder<T: RepoType>(settings: &HubSettings, kind: &T, repo: &str) -> PathBuf {
    settings.cache_dir.join(format!("{}--{}", kind.plural(), repo.replace('/', "--")))
}

/// The commit that a revision had when it was asked for last.
pub(super) fn cached_commit(folder: &Path, revision: &str) -> Option<String> {
    if is_hex(revision, 40) {
        return Some(revision.to_string());
    }
    let mut text = String::new();
    File::open(folder.join("refs").join(revision)).ok()?.take(64).read_to_string(&mut text).ok()?;
    let commit = text.trim();
    is_hex(commit, 40).then(|| commit.to_string())
}

/// Files of a commit in the cache; `None` where the cache cannot say whether the commit has one that comes first.
/// `offline` takes what is not there for absent.
pub(super) fn cached(
    folder: &Path,
    commit: &str,
    groups: &[&[&str]],
    offline: bool,
) -> Option<Vec<Option<PathBuf>>> {
    let group = |names: &&[&str]| {
        for name in *names {
            let path = folder.join("snapshots").join(commit).join(name);
            if path.exists() {
                return Some(Some(path));
            }
            if !offline && !folder.join(".no_exist").join(commit).join(name).exists() {
                return None;
            }
        }
        Some(None)
    };
    groups.iter().map(group).collect()
}

/// Files of a revision from the network, into the cache.
pub(super) fn fetch<T: Kind>(
    settings: &HubSettings,
    folder: &Path,
    handle: &HFRepositorySync<T>,
    revision: &str,
    groups: &[&[&str]],
) -> Result<Snapshot, Fault> {
    let commit = match T::commit(handle, revision)? {
        Some(commit) if is_hex(&commit, 40) => commit,
        other => {
            let other = other.unwrap_or_default();
            return Err(Fault::Other(format!(
                "the Hub names the commit {:?}",
                other.escape_debug().to_string()
            )));
        }
    };
    let names = groups.iter().flat_map(|group| group.iter().map(|name| name.to_string())).collect();
    let entries = match handle.get_paths_info().paths(names).revision(commit.as_str()).send() {
        Ok(entries) => entries,
        Err(HFError::EntryNotFound { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let fetcher = Fetcher { settings, folder, handle, commit: &commit };
    let mut files = Vec::new();
    for group in groups {
        let mut found = None;
        for name in *group {
            let entry = entries.iter().find_map(|entry| match entry {
                RepoTreeEntry::File { path, oid, size, lfs, .. } if path == name => {
                    let sha256 = lfs.as_ref().map(|lfs| lfs.sha256.clone());
                    Some(Said { name, oid, size: *size, sha256 })
                }
                _ => None,
            });
            match entry {
                Some(said) => {
                    found = Some(fetcher.file(&said)?);
                    break;
                }
                None => fetcher.absent(name)?,
            }
        }
        files.push(found);
    }
    if !is_hex(revision, 40) {
        put(&folder.join("refs").join(revision), commit.as_bytes())?;
    }
    Ok(Snapshot { commit, files })
}

/// What the Hub says of a file.
struct Said<'a> {
    name: &'a str,
    oid: &'a str,
    size: u64,
    /// For files outside git: their hash, where it is said.
    sha256: Option<Option<String>>,
}

struct Fetcher<'a, T: RepoType> {
    settings: &'a HubSettings,
    folder: &'a Path,
    handle: &'a HFRepositorySync<T>,
    commit: &'a str,
}

impl<T: RepoType> Fetcher<'_, T> {
    /// Remembers that the commit has no such file.
    fn absent(&self, name: &str) -> Result<(), Fault> {
        put(&self.folder.join(".no_exist").join(self.commit).join(name), b"")
    }

    /// The file in the cache, downloaded where it is not there.
    fn file(&self, said: &Said<'_>) -> Result<PathBuf, Fault> {
        let path = self.folder.join("snapshots").join(self.commit).join(said.name);
        if path.exists() {
            return Ok(path);
        }
        fs::create_dir_all(self.folder).map_err(failed(self.folder))?;
        // Removed with all that is in it, whatever happens.
        let temporary = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempdir_in(self.folder);
        let temporary = temporary.map_err(failed(self.folder))?;
        let progress = self.settings.progress.clone().map(|watch| Progress::new(Told(watch)));
        let request = self.handle.download_file().filename(said.name).revision(self.commit);
        let came = request.local_dir(temporary.path().to_path_buf()).maybe_progress(progress).send()?;
        let length = fs::metadata(&came).map_err(failed(&came))?.len();
        if length != said.size {
            let (name, size) = (said.name, said.size);
            return Err(Fault::Other(format!("`{name}`: {length} bytes came of {size}")));
        }
        let blob = match &said.sha256 {
            None => said.oid.to_ascii_lowercase(),
            Some(sha256) => {
                let own = sha256_of(&came).map_err(failed(&came))?;
                if sha256.as_ref().is_some_and(|said| !said.eq_ignore_ascii_case(&own)) {
                    return Err(Fault::Other(format!(
                        "`{}`: not the bytes that the Hub announced",
                        said.name
                    )));
                }
                own
            }
        };
        if !is_hex(&blob, 40) && !is_hex(&blob, 64) {
            let blob = blob.escape_debug().to_string();
            return Err(Fault::Other(format!("`{}`: the Hub names its content {blob:?}", said.name)));
        }
        self.place(&came, &blob, said.name, &path)?;
        Ok(path)
    }

    /// `blobs/BLOB`, and the link `snapshots/COMMIT/NAME` to it.
    fn place(&self, came: &Path, blob: &str, name: &str, path: &Path) -> Result<(), Fault> {
        let blobs = self.folder.join("blobs");
        let parent = path.parent().unwrap_or(self.folder);
        for folder in [blobs.as_path(), parent] {
            fs::create_dir_all(folder).map_err(failed(folder))?;
        }
        let content = blobs.join(blob);
        fs::rename(came, &content).map_err(failed(&content))?;
        #[cfg(unix)]
        let linked = {
            let up = "../".repeat(2 + name.matches('/').count());
            std::os::unix::fs::symlink(format!("{up}blobs/{blob}"), path)
        };
        // Links need a privilege there.
        #[cfg(not(unix))]
        let linked = {
            let _ = name;
            fs::copy(&content, path).map(|_| ())
        };
        match linked {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(path)(e)),
            _ => Ok(()),
        }
    }
}

fn put(path: &Path, content: &[u8]) -> Result<(), Fault> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(failed(folder))?;
    fs::write(path, content).map_err(failed(path))
}

fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut HashWriter(&mut hasher))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Passes on how far a download is.
struct Told(Arc<Watch>);

impl ProgressHandler for Told {
    fn on_progress(&self, event: &ProgressEvent) {
        if let ProgressEvent::Download(DownloadEvent::Progress { files }) = event {
            for file in files {
                (self.0)(&file.filename, file.bytes_completed, file.total_bytes);
            }
        }
    }
}
