//! The one error type of the workspace.
//!
//! Every variant prints as one line that names the file, key or shape at fault, so that a program can show it to a
//! person as it is.

use std::path::{Path, PathBuf};

/// What can go wrong in any crate of the workspace.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is unknown, of the wrong type or out of range.
    #[error("config key `{key}`: {reason}")]
    Config {
        /// The key, dotted from the root (`optim.lr`).
        key: String,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// A tensor has a shape that the operation cannot take.
    #[error("{op}: expected shape {expected}, got {got:?}")]
    Shape {
        /// The operation that refused.
        op: &'static str,
        /// The expected shape in words (`[N, C, H, W]`).
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// An operating-system error on a file or folder.
    // The cause is part of the text and so no `source`: a chain of errors would say it twice.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        cause: std::io::Error,
    },
    /// A file that can be read but not understood: truncated, hostile or of another format.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A set of named tensors does not fit the model; all faults are listed at once.
    #[error("{}: weights do not fit{}", path.display(), list_faults(missing, unexpected, mismatched))]
    Weights {
        /// The file.
        path: PathBuf,
        /// Names that the model has and the file lacks.
        missing: Vec<String>,
        /// Names that the file has and the model lacks.
        unexpected: Vec<String>,
        /// `name: expected [..], got [..]`.
        mismatched: Vec<String>,
    },
    /// A data set that cannot be used: empty, too small, a label out of range.
    #[error("{name}: {reason}")]
    Data {
        /// The data set, folder or sample.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The loss or a gradient stopped being a number.
    #[error(
        "{what} is not finite at step {step}: lower the learning rate or lengthen the warm-up; the last good checkpoint is kept"
    )]
    NonFinite {
        /// The quantity (`loss`, `gradient of layer1.0.conv1.weight`).
        what: String,
        /// The optimiser step, from 0.
        step: u64,
    },
    /// A rank failed or answered with something that does not fit.
    #[error("rank {rank}: {reason}")]
    Rank {
        /// The rank at fault, or the rank that noticed.
        rank: usize,
        /// What happened.
        reason: String,
    },
    /// An error of Candle itself.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

fn list_faults(missing: &[String], unexpected: &[String], mismatched: &[String]) -> String {
    let mut text = String::new();
    for (title, names) in [("missing", missing), ("unexpected", unexpected), ("wrong shape", mismatched)] {
        if !names.is_empty() {
            let shown = names.iter().take(20).map(String::as_str);
            text.push_str(&format!("; {title}: {}", shown.collect::<Vec<_>>().join(", ")));
            if names.len() > 20 {
                text.push_str(&format!(" and {} more", names.len() - 20));
            }
        }
    }
    text
}

impl Error {
    /// An [`Error::Config`].
    pub fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { key: key.into(), reason: reason.into() }
    }

    /// An [`Error::Shape`].
    pub fn shape(op: &'static str, expected: impl Into<String>, got: &[usize]) -> Self {
        Self::Shape { op, expected: expected.into(), got: got.to_vec() }
    }

    /// Wraps an I/O error with the path it happened on: `.map_err(Error::io(&path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |cause| Self::Io { path, cause }
    }

    /// An [`Error::Format`]. Decoders may end their lines; an error is one line.
    pub fn format(path: impl AsRef<Path>, reason: impl std::fmt::Display) -> Self {
        let reason = reason.to_string().split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        Self::Format { path: path.as_ref().to_path_buf(), reason }
    }

    /// An [`Error::Data`].
    pub fn data(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Data { name: name.into(), reason: reason.into() }
    }
}

/// The workspace's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
