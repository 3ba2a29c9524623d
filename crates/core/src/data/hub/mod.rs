//! Data sets from the Hugging Face Hub, from its cache first.
//!
//! This is the one place that reads the Hub's environment variables; everything is passed on explicitly.

mod fetch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::repository::{AddSource, CommitOperation, RepoTypeDataset, RepoTypeModel};
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync};

use crate::{Error, Result};

use super::{InMemory, ParquetColumns, Split, open_parquet};

const CONVERTED: &str = "refs/convert/parquet";

pub use fetch::Snapshot;
use fetch::{Fault, Kind};

/// Is told of a download: the file, the bytes that have come and those of all.
pub type Watch = dyn Fn(&str, u64, u64) + Send + Sync;

/// Where the Hub is and where its cache lies.
#[derive(Clone)]
pub struct HubSettings {
    /// The cache folder (`.../hub`, with `datasets--owner--name` inside).
    pub cache_dir: PathBuf,
    /// The base address.
    pub endpoint: String,
    /// The access token, if any.
    pub token: Option<String>,
    /// Whether the network is off limits.
    pub offline: bool,
    /// How often a request is made again that failed for a moment.
    pub retries: usize,
    /// Is told how far downloads are.
    pub progress: Option<Arc<Watch>>,
}

/// Hides the token.
impl fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubSettings")
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &self.endpoint)
            .field("has_token", &self.token.is_some())
            .field("offline", &self.offline)
            .finish()
    }
}

impl HubSettings {
    /// Reads the environment as Python's `huggingface_hub` does:
    ///
    /// - cache: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `HF_HOME/hub`, else
    ///   `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`;
    /// - endpoint: `HF_ENDPOINT`, else `https://huggingface.co`;
    /// - token: none if `HF_HUB_DISABLE_IMPLICIT_TOKEN` is on, else `HF_TOKEN`, else the content of the file
    ///   `HF_TOKEN_PATH`, else of `HF_HOME/token`;
    /// - offline: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` is `1`, `on`, `yes` or `true`.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// [`Self::from_env`] with variables from `lookup`; empty values count as unset.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let on = |name: &str| {
            get(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str()))
        };
        let user_home = get("HOME").or_else(|| get("USERPROFILE")).map_or_else(PathBuf::new, PathBuf::from);
        let folder = |name: &str| {
            get(name).map(|value| match value.strip_prefix("~/") {
                Some(rest) => user_home.join(rest),
                None => PathBuf::from(value),
            })
        };
        let home = folder("HF_HOME").unwrap_or_else(|| {
            folder("XDG_CACHE_HOME").unwrap_or_else(|| user_home.join(".cache")).join("huggingface")
        });
        let cache_dir = folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE"));
        let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = get("HF_TOKEN")
            .or_else(|| std::fs::read_to_string(token_file).ok())
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty() && !on("HF_HUB_DISABLE_IMPLICIT_TOKEN"));
        Self {
            cache_dir: cache_dir.unwrap_or_else(|| home.join("hub")),
            endpoint: get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token,
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
            retries: 4,
            progress: None,
        }
    }

    /// A file of a data set repository (`owner/name`), from the cache or else from the network. `candidates` are
    /// `(revision, file)` pairs, tried in order, all of them in the cache before any on the network.
    ///
    /// # Errors
    /// [`Error::Data`] that names repository and file and says how to get it.
    pub fn dataset_file(&self, repo: &str, candidates: &[(&str, &str)]) -> Result<PathBuf> {
        check(repo, candidates.iter().map(|(revision, _)| *revision))?;
        let folder = fetch::folder(self, &RepoTypeDataset, repo);
        for (revision, file) in candidates {
            let Some(commit) = fetch::cached_commit(&folder, revision) else { continue };
            if let Some(Some(path)) =
                fetch::cached(&folder, &commit, &[&[file]], true).and_then(|files| files.into_iter().next())
            {
                return Ok(path);
            }
        }
        let mut cause = OFFLINE.to_owned();
        if !self.offline {
            let (owner, name) = hf_hub::split_id(repo);
            let handle = self.client(repo)?.dataset(owner, name);
            for (revision, file) in candidates {
                match self.fetch(&RepoTypeDataset, &handle, repo, revision, &[&[file]]) {
                    Ok(snapshot) => match snapshot.files.into_iter().flatten().next() {
                        Some(path) => return Ok(path),
                        None => cause = format!("the Hub has no `{file}` at revision {revision}"),
                    },
                    // Only a missing file is a reason to look for it elsewhere.
                    Err(Fault::Absent(text)) => cause = format!("the download failed ({text})"),
                    Err(Fault::Other(text)) => {
                        cause = format!("the download failed ({text})");
                        break;
                    }
                }
            }
        }
        let (revision, file) = candidates.first().copied().unwrap_or_default();
        let how = format!("get it once with `hf download {repo} {file} --repo-type dataset`");
        Err(self.nowhere(repo, revision, file, &cause, &how))
    }

    /// Files of a model repository (`owner/name`) at one commit, from the cache or else from the network: of each group
    /// of names the first that the repository has. What the cache knows is not asked for again: a branch that moved is
    /// seen when its commit is named, or its `refs` file removed.
    ///
    /// # Errors
    /// [`Error::Config`] for names that are none; [`Error::Data`] that names the repository and says how to get it, where
    /// no group has a file or the first has none.
    pub fn model_files(&self, repo: &str, revision: &str, groups: &[&[&str]]) -> Result<Snapshot> {
        check(repo, [revision].into_iter())?;
        let folder = fetch::folder(self, &RepoTypeModel, repo);
        let known = fetch::cached_commit(&folder, revision);
        let from_cache = |offline: bool| {
            let commit = known.clone()?;
            let files = fetch::cached(&folder, &commit, groups, offline)?;
            files.first()?.is_some().then_some(Snapshot { commit, files })
        };
        if let Some(snapshot) = from_cache(self.offline) {
            return Ok(snapshot);
        }
        let cause = if self.offline {
            OFFLINE.to_owned()
        } else {
            let (owner, name) = hf_hub::split_id(repo);
            let handle = self.client(repo)?.model(owner, name);
            match self.fetch(&RepoTypeModel, &handle, repo, revision, groups) {
                Ok(snapshot) if snapshot.files.first().is_some_and(Option::is_some) => return Ok(snapshot),
                Ok(_) => "the Hub has no such file".to_owned(),
                Err(Fault::Absent(text) | Fault::Other(text)) => {
                    // Without a network, what is there has to do.
                    if let Some(snapshot) = from_cache(true) {
                        return Ok(snapshot);
                    }
                    format!("the download failed ({text})")
                }
            }
        };
        let file = groups.first().map(|names| names.join("` or `")).unwrap_or_default();
        let how = format!("get it once with `hf download {repo}`");
        Err(self.nowhere(repo, revision, &file, &cause, &how))
    }

    /// Uploads files of a folder to the model repository `owner/name`, which is made where it is not there: one commit on
    /// its main branch. Gives the commit.
    ///
    /// # Errors
    /// [`Error::Data`] in the Hub's words, or where the network is off limits or there is no token; [`Error::Io`] for a
    /// file that cannot be read.
    pub fn upload(
        &self,
        repo: &str,
        folder: &Path,
        files: &[&str],
        private: bool,
        message: &str,
    ) -> Result<String> {
        check(repo, ["main"].into_iter())?;
        if self.offline {
            return Err(Error::data(repo, OFFLINE));
        }
        if self.token.is_none() {
            return Err(Error::data(repo, "uploading needs a token: set HF_TOKEN"));
        }
        let operations = files
            .iter()
            .map(|name| {
                let path = folder.join(name);
                std::fs::File::open(&path).map_err(Error::io(&path))?;
                Ok(CommitOperation::Add { path_in_repo: name.to_string(), source: AddSource::File(path) })
            })
            .collect::<Result<Vec<_>>>()?;
        let client = self.client(repo)?;
        let said = |step: &str, error: HFError| {
            let (Fault::Absent(text) | Fault::Other(text)) = Fault::from(error);
            Error::data(repo, format!("{step}: {text}"))
        };
        client
            .create_repository()
            .repo_id(repo)
            .repo_type(RepoTypeModel)
            .private(private)
            .exist_ok(true)
            .send()
            .map_err(|e| said("the repository was not made", e))?;
        let (owner, name) = hf_hub::split_id(repo);
        let made = client
            .model(owner, name)
            .create_commit()
            .operations(operations)
            .commit_message(message)
            .send()
            .map_err(|e| said("the upload failed, nothing was committed", e))?;
        Ok(made.commit_oid.unwrap_or_default())
    }

    fn client(&self, repo: &str) -> Result<HFClientSync> {
        let mut builder = HFClient::builder()
            .cache_dir(&self.cache_dir)
            .endpoint(&self.endpoint)
            .retry_max_attempts(self.retries);
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        builder.build_sync().map_err(|e| Error::data(repo, format!("no Hub client: {}", one_line(&e))))
    }

    fn fetch<T: Kind>(
        &self,
        kind: &T,
        handle: &HFRepositorySync<T>,
        repo: &str,
        revision: &str,
        groups: &[&[&str]],
    ) -> Result<Snapshot, Fault> {
        fetch::fetch(self, &fetch::folder(self, kind, repo), handle, revision, groups)
    }

    fn nowhere(&self, repo: &str, revision: &str, file: &str, cause: &str, how: &str) -> Error {
        let cache = self.cache_dir.display();
        let reason = format!(
            "`{file}` (revision {revision}) is not in the cache {cache} and {cause}: {how}, or pass a folder that holds \
             the files"
        );
        Error::data(repo, reason)
    }
}

const OFFLINE: &str = "the network is switched off (HF_HUB_OFFLINE)";

/// Refuses names that could lead out of the cache.
fn check<'a>(repo: &str, revisions: impl Iterator<Item = &'a str>) -> Result<()> {
    let plain = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
    };
    if repo.split('/').count() > 2 || !repo.split('/').all(plain) {
        let reason = format!("`{}` is no repository: OWNER/NAME", repo.escape_debug());
        return Err(Error::config("hub.repository", reason));
    }
    for revision in revisions {
        if !revision.split('/').all(plain) {
            let reason = format!("`{}` is no branch, tag or commit", revision.escape_debug());
            return Err(Error::config("hub.revision", reason));
        }
    }
    Ok(())
}

fn one_line(error: &HFError) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The image sets that can be loaded by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HubDataset {
    /// `uoft-cs/cifar10`: 50,000 and 10,000 images, 32x32 RGB, 10 classes.
    Cifar10,
    /// `uoft-cs/cifar100`: 50,000 and 10,000 images, 32x32 RGB, the 100 fine classes.
    Cifar100,
    /// `ylecun/mnist`: 60,000 and 10,000 images, 28x28 gray, 10 classes.
    Mnist,
    /// `zalando-datasets/fashion_mnist`: 60,000 and 10,000 images, 28x28 gray, 10 classes.
    FashionMnist,
}

impl HubDataset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cifar10, Self::Cifar100, Self::Mnist, Self::FashionMnist];

    /// The name on command lines and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
        }
    }

    /// The set with that [name](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// The repository, `owner/name`.
    pub fn repo(self) -> &'static str {
        match self {
            Self::Cifar10 => "uoft-cs/cifar10",
            Self::Cifar100 => "uoft-cs/cifar100",
            Self::Mnist => "ylecun/mnist",
            Self::FashionMnist => "zalando-datasets/fashion_mnist",
        }
    }

    /// The columns of its files.
    pub fn columns(self) -> ParquetColumns {
        let (image, label, classes) = match self {
            Self::Cifar10 => ("img", "label", 10),
            Self::Cifar100 => ("img", "fine_label", 100),
            Self::Mnist | Self::FashionMnist => ("image", "label", 10),
        };
        ParquetColumns { image: image.to_owned(), label: label.to_owned(), classes }
    }

    /// The configuration, which is the folder of its files.
    fn config(self) -> &'static str {
        match self {
            Self::Cifar10 => "plain_text",
            Self::Cifar100 => "cifar100",
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion_mnist",
        }
    }

    /// The local path of the split's parquet file: from revision `main`, else from the Hub's own conversion
    /// (`refs/convert/parquet`).
    ///
    /// # Errors
    /// As [`HubSettings::dataset_file`].
    pub fn file(self, split: Split, settings: &HubSettings) -> Result<PathBuf> {
        let (config, split) = (self.config(), split.name());
        let main = format!("{config}/{split}-00000-of-00001.parquet");
        let converted = format!("{config}/{split}/0000.parquet");
        settings.dataset_file(self.repo(), &[("main", &main), (CONVERTED, &converted)])
    }

    /// Loads a split into memory. Images are decoded whatever their format, gray images keep one channel.
    ///
    /// # Errors
    /// As [`HubSettings::dataset_file`] and [`open_parquet`].
    pub fn load(self, split: Split, settings: &HubSettings) -> Result<InMemory> {
        let file = self.file(split, settings)?;
        let name = format!("{}-{}", self.name(), split.name());
        open_parquet(&name, &[file], Some(&self.columns()))
    }
}
