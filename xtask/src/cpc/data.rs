//! Where the collections of tier `small` lie.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Part, Session};

/// The book that sentences come from.
pub const BOOKS: &str = "books_sentences.txt";

/// The sets of sentences of table 5.
pub const SETS: [&str; 5] = ["MR", "CR", "Subj", "MPQA", "TREC"];

/// What a folder holds, itself or in a folder directly in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    small: bool,
    root: PathBuf,
    /// TIMIT, or NLTK's sample of it.
    pub timit: Option<PathBuf>,
    /// Recordings with a `labels.csv`.
    pub digits: Option<PathBuf>,
    /// Books, and at least one set of sentences.
    pub text: Option<PathBuf>,
}

impl Found {
    /// Looks into the folder of a call; tier `smoke` has its data with it.
    pub fn new(session: &Session) -> Result<Self> {
        match (&session.data, session.small) {
            (Some(_), false) => bail!("cpc: tier smoke has its data with it; --data is for --tier small"),
            (None, true) => Ok(Self { small: true, ..Self::default() }),
            (Some(root), true) => Self::below(root),
            (None, false) => Ok(Self::default()),
        }
    }

    fn below(root: &Path) -> Result<Self> {
        let mut folders = vec![root.to_path_buf()];
        for entry in std::fs::read_dir(root).with_context(|| root.display().to_string())? {
            let path = entry.with_context(|| root.display().to_string())?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        folders[1..].sort();
        let first = |holds: fn(&Path) -> bool| folders.iter().find(|folder| holds(folder)).cloned();
        let found = Self {
            small: true,
            root: root.to_path_buf(),
            timit: first(is_timit),
            digits: first(|folder| folder.join("labels.csv").is_file()),
            text: first(|folder| {
                folder.join(BOOKS).is_file()
                    && SETS.iter().any(|set| folder.join(format!("{set}.tsv")).is_file())
            }),
        };
        if found.timit.is_none() && found.digits.is_none() && found.text.is_none() {
            bail!(
                "{}: holds nothing that tier small of cpc trains on: TIMIT, recordings with a labels.csv, or {BOOKS} beside {}.tsv",
                root.display(),
                SETS.join(".tsv, ")
            );
        }
        Ok(found)
    }

    /// What a part needs and is not there.
    pub fn lacks(&self, part: Part) -> Option<String> {
        let place = if self.root.as_os_str().is_empty() {
            "--data DIR".to_string()
        } else {
            self.root.display().to_string()
        };
        let lacks = match part {
            Part::Negatives if !self.small => {
                return Some("TIMIT: --tier small --data DIR".to_string());
            }
            _ if !self.small => return None,
            Part::Speech if self.timit.is_none() && self.digits.is_none() => {
                "TIMIT, or recordings with a labels.csv"
            }
            Part::Steps | Part::Negatives if self.timit.is_none() => "TIMIT",
            Part::Text if self.text.is_none() => {
                return Some(format!("{place} with {BOOKS} and {}.tsv", SETS.join(".tsv, ")));
            }
            _ => return None,
        };
        Some(format!("{place} with {lacks}"))
    }

    /// Fails for a part that lacks something.
    pub fn need(&self, part: Part) -> Result<()> {
        match self.lacks(part) {
            Some(lacks) => bail!("{} needs {lacks}", part.name()),
            None => Ok(()),
        }
    }
}

/// `dr1-…` or `DR1` in it, or below its `TRAIN`.
fn is_timit(folder: &Path) -> bool {
    let region = |name: &str| {
        let name = name.to_lowercase();
        let digit = name.strip_prefix("dr").and_then(|rest| rest.chars().next());
        digit.is_some_and(|c| c.is_ascii_digit())
    };
    [folder.to_path_buf(), folder.join("TRAIN"), folder.join("train")].iter().any(|folder| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.into_iter().any(|e| e.path().is_dir() && region(&e.file_name().to_string_lossy()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_found_and_what_lacks_is_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let root = folder.path();
        let text = |r: Result<Found>| r.map_or_else(|e| format!("{e:#}"), |_| String::new());
        let name = root.display().to_string();
        assert!(text(Found::below(root)).contains(&name));
        assert!(text(Found::below(&root.join("absent"))).contains("absent"));
        std::fs::create_dir_all(root.join("timit/dr1-fvmh0"))?;
        let found = Found::below(root)?;
        assert_eq!(found.timit, Some(root.join("timit")));
        assert!(found.need(Part::Speech).is_ok() && found.need(Part::Negatives).is_ok());
        let lacks = found.lacks(Part::Text).unwrap_or_default();
        assert!(lacks.contains(BOOKS) && lacks.contains(&name), "{lacks}");
        for file in [BOOKS, "CR.tsv", "labels.csv"] {
            std::fs::write(root.join(file), "")?;
        }
        let found = Found::below(root)?;
        assert_eq!((found.text.as_deref(), found.digits.as_deref()), (Some(root), Some(root)));
        assert!(Part::ALL.iter().all(|part| found.need(*part).is_ok()));
        let smoke = Found::default();
        assert!(smoke.need(Part::Speech).is_ok());
        let error = smoke.need(Part::Negatives).map_or_else(|e| e.to_string(), |()| String::new());
        assert!(error.contains("cpc-negatives") && error.contains("TIMIT"), "{error}");
        Ok(())
    }
}
