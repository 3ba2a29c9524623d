//! The folder of a run.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoint::{Checkpoint, CheckpointFolder};
use super::config::first_difference;
use super::tensorboard::EventWriter;
use crate::weights::{TEMPORARY_PREFIX, canonical_json, write_atomically};
use crate::{Error, Result};

const LOCK: &str = ".lock";

/// The folder of a run, locked against every other process while this value lives. It holds
///
/// - `config.toml`, the resolved settings;
/// - `metrics.jsonl`, one JSON object a line; whatever depends on the clock stands under the key `time`;
/// - `events.out.tfevents.*` for TensorBoard;
/// - `checkpoints/checkpoint-<step>.safetensors`;
/// - `encoder.safetensors`, once the run has finished.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    config: Value,
    checkpoint: Option<Checkpoint>,
    warnings: Vec<String>,
    resumed: bool,
    // The lock goes with the file.
    _lock: File,
}

fn refuse(path: &Path, kind: ErrorKind, reason: &str) -> Error {
    Error::Io { path: path.to_path_buf(), cause: std::io::Error::new(kind, reason) }
}

fn lock(path: &Path) -> Result<File> {
    let place = path.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&place);
    let file = file.map_err(Error::io(&place))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(refuse(path, ErrorKind::WouldBlock, "another process is running in this folder"))
        }
        Err(TryLockError::Error(cause)) => Err(Error::Io { path: place, cause }),
    }
}

fn parse(path: &Path, text: &str) -> Result<Value> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::format(path, e.message()))?;
    serde_json::to_value(table).map_err(|e| Error::format(path, e))
}

/// What a killed process left half written.
fn remove_temporaries(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            std::fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}

impl RunDir {
    /// Begins a run in `path`, which must be empty or absent. `config` is the resolved settings as TOML.
    ///
    /// # Errors
    /// [`Error::Io`] for a folder that holds anything (nothing is changed then), that another process runs in, or that
    /// cannot be written; [`Error::Format`] for settings that are no TOML.
    pub fn create(path: &Path, config: &str) -> Result<Self> {
        let settings = path.join("config.toml");
        let value = parse(&settings, config)?;
        std::fs::create_dir_all(path).map_err(Error::io(path))?;
        // Before the lock, to leave a foreign folder as it is; after it, because another process may have been first.
        Self::must_be_empty(path)?;
        let lock = lock(path)?;
        Self::must_be_empty(path)?;
        remove_temporaries(path)?;
        let checkpoints = path.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).map_err(Error::io(&checkpoints))?;
        // Last, because it is what makes the folder a run.
        write_atomically(&settings, |file| file.write_all(config.as_bytes()).map_err(Error::io(&settings)))?;
        Ok(Self {
            path: path.to_path_buf(),
            config: value,
            checkpoint: None,
            warnings: Vec::new(),
            resumed: false,
            _lock: lock,
        })
    }

    fn must_be_empty(path: &Path) -> Result<()> {
        for entry in std::fs::read_dir(path).map_err(Error::io(path))? {
            let entry = entry.map_err(Error::io(path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // A run that was killed while it was set up leaves these.
            let begun = name == LOCK
                || name.starts_with(TEMPORARY_PREFIX)
                || name == "checkpoints"
                    && std::fs::read_dir(entry.path()).is_ok_and(|mut inner| inner.next().is_none());
            if !begun {
                let reason =
                    format!("is not empty (it holds `{name}`): resume the run or choose another folder");
                return Err(refuse(path, ErrorKind::AlreadyExists, &reason));
            }
        }
        Ok(())
    }

    /// Takes up the run in `path`: checks the settings, reads the newest checkpoint that is whole (none, if the run
    /// died before its first) and removes what was half written.
    ///
    /// The settings must be the same in every key: a longer run, for example, has another learning-rate schedule from
    /// its first step on and is another run.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key that differs; [`Error::Io`] for a folder without a run, or one that
    /// another process runs in.
    pub fn resume(path: &Path, config: &str) -> Result<Self> {
        let settings = path.join("config.toml");
        let value = parse(&settings, config)?;
        if !settings.is_file() {
            return Err(refuse(path, ErrorKind::NotFound, "holds no run to resume (no `config.toml`)"));
        }
        let lock = lock(path)?;
        let text = std::fs::read_to_string(&settings).map_err(Error::io(&settings))?;
        if let Some(key) = first_difference(&parse(&settings, &text)?, &value) {
            return Err(Error::config(key, format!("differs from the run in {}", path.display())));
        }
        let checkpoints = path.join("checkpoints");
        remove_temporaries(path)?;
        remove_temporaries(&checkpoints)?;
        let (checkpoint, mut warnings) = CheckpointFolder::new(&checkpoints).latest()?;
        if checkpoint.is_none() {
            warnings.push(format!("{}: no checkpoint, the run begins anew", path.display()));
        }
        Ok(Self { path: path.to_path_buf(), config: value, checkpoint, warnings, resumed: true, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved settings.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The checkpoint to go on from.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// Takes the checkpoint out, so that its tensors need no memory during the run.
    pub(super) fn take_checkpoint(&mut self) -> Option<Checkpoint> {
        self.checkpoint.take()
    }

    /// What a person should know of the resumption.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The checkpoints.
    pub fn checkpoints(&self) -> CheckpointFolder {
        CheckpointFolder::new(&self.path.join("checkpoints"))
    }

    /// Where the trained encoder goes.
    pub fn encoder_path(&self) -> PathBuf {
        self.path.join("encoder.safetensors")
    }

    /// Opens the logs for steps from `from_step` on; what they hold about these steps from before an interruption is
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_log(&self, from_step: u64) -> Result<RunLog> {
        let path = self.path.join("metrics.jsonl");
        if self.resumed && path.exists() {
            let text = std::fs::read(&path).map_err(Error::io(&path))?;
            let keep = |line: &&[u8]| {
                let value: Option<Value> = serde_json::from_slice(line).ok();
                let step = value.as_ref().and_then(|v| v.get("step")).and_then(Value::as_u64);
                line.ends_with(b"\n") && step.is_some_and(|s| s < from_step)
            };
            write_atomically(&path, |file| {
                let mut lines = text.split_inclusive(|b| *b == b'\n').filter(keep);
                lines.try_for_each(|line| file.write_all(line)).map_err(Error::io(&path))
            })?;
        }
        let metrics = OpenOptions::new().append(true).create(true).open(&path).map_err(Error::io(&path))?;
        let events = EventWriter::create(&self.path, self.resumed.then_some(from_step))?;
        Ok(RunLog { path, metrics, events })
    }
}

/// `metrics.jsonl` and the TensorBoard events of a run.
#[derive(Debug)]
pub struct RunLog {
    path: PathBuf,
    metrics: File,
    events: EventWriter,
}

impl RunLog {
    /// Appends one object to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn line(&mut self, value: &Value) -> Result<()> {
        let text = canonical_json(value) + "\n";
        self.metrics.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }

    /// Writes scalars to the TensorBoard events.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        self.events.scalars(step, scalars)
    }
}
