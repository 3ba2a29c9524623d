//! Data sets from the Hugging Face Hub, from its cache first.
//!
//! This is the one place that reads the Hub's environment variables; everything is passed on explicitly.

use std::fmt;
use std::path::PathBuf;

use hf_hub::repository::RepoType;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync};

use crate::{Error, Result};

use super::{InMemory, ParquetColumns, Split, open_parquet};

const CONVERTED: &str = "refs/convert/parquet";

/// Where the Hub is and where its cache lies.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The cache folder (`.../hub`, with `datasets--owner--name` inside).
    pub cache_dir: PathBuf,
    /// The base address.
    pub endpoint: String,
    /// The access token, if any.
    pub token: Option<String>,
    /// Whether the network is off limits.
    pub offline: bool,
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
        }
    }

    /// A file of a data set repository (`owner/name`), from the cache or else from the network. `candidates` are
    /// `(revision, file)` pairs, tried in order, all of them in the cache before any on the network.
    ///
    /// # Errors
    /// [`Error::Data`] that names repository and file and says how to get it.
    pub fn dataset_file(&self, repo: &str, candidates: &[(&str, &str)]) -> Result<PathBuf> {
        let (owner, name) = hf_hub::split_id(repo);
        let client = self.client(repo)?;
        self.file(repo, " --repo-type dataset", &client.dataset(owner, name), candidates)
    }

    /// The same for a model repository.
    ///
    /// # Errors
    /// As [`Self::dataset_file`].
    pub fn model_file(&self, repo: &str, candidates: &[(&str, &str)]) -> Result<PathBuf> {
        let (owner, name) = hf_hub::split_id(repo);
        let client = self.client(repo)?;
        self.file(repo, "", &client.model(owner, name), candidates)
    }

    fn client(&self, repo: &str) -> Result<HFClientSync> {
        let mut builder = HFClient::builder().cache_dir(&self.cache_dir).endpoint(&self.endpoint);
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        builder.build_sync().map_err(|e| Error::data(repo, format!("no Hub client: {}", one_line(&e))))
    }

    fn file<T: RepoType>(
        &self,
        repo: &str,
        kind_flag: &str,
        handle: &HFRepositorySync<T>,
        candidates: &[(&str, &str)],
    ) -> Result<PathBuf> {
        let fetch = |revision: &str, file: &str, cached: bool| {
            handle.download_file().filename(file).revision(revision).local_files_only(cached).send()
        };
        for (revision, file) in candidates {
            if let Ok(path) = fetch(revision, file, true) {
                return Ok(path);
            }
        }
        let mut cause = "the network is switched off (HF_HUB_OFFLINE)".to_owned();
        if !self.offline {
            for (revision, file) in candidates {
                match fetch(revision, file, false) {
                    Ok(path) => return Ok(path),
                    Err(e) => {
                        cause = format!("the download failed ({})", one_line(&e));
                        // Only a missing file is a reason to look for it elsewhere.
                        if !matches!(e, HFError::EntryNotFound { .. } | HFError::RevisionNotFound { .. }) {
                            break;
                        }
                    }
                }
            }
        }
        let (revision, file) = candidates.first().copied().unwrap_or_default();
        Err(Error::data(
            repo,
            format!(
                "`{file}` (revision {revision}) is not in the cache {} and {cause}: get it once with \
                 `hf download {repo} {file}{kind_flag}`, or pass a folder that holds the files",
                self.cache_dir.display()
            ),
        ))
    }
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
