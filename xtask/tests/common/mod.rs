//! The program, and small data for it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Result;

/// Runs the program.
pub fn xtask(arguments: &[&str]) -> Result<Output> {
    // Not the runner's own home: the Hub cache must not decide what a test sees.
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    Ok(command.args(arguments).env("HF_HUB_OFFLINE", "1").output()?)
}

/// The call fails with one line on standard error that holds all `words`.
#[track_caller]
pub fn refuses(arguments: &[&str], words: &[&str]) -> Result<()> {
    let output = xtask(arguments)?;
    assert!(!output.status.success(), "{arguments:?} succeeded: {output:?}");
    says(&output, words);
    Ok(())
}

/// Standard error ends in its only line that begins with `error: `, which holds all `words`, and holds the system's word
/// once.
#[track_caller]
pub fn says(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    let error = text.lines().last().unwrap_or_default();
    assert!(error.starts_with("error: ") && text.matches("error: ").count() == 1, "{text}");
    assert!(!text.contains("panicked") && error.matches("os error").count() <= 1, "{text}");
    for word in words {
        assert!(error.contains(word), "`{word}` is not in `{error}`");
    }
}

/// A folder of noisy PNGs.
pub fn pictures(folder: &Path, names: &[&str]) -> Result<()> {
    for (i, name) in names.iter().enumerate() {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        let picture = image::RgbImage::from_fn(40, 36, |x, y| {
            let v = (x * 7 + y * 13 + (i as u32) * 31) % 251;
            image::Rgb([v as u8, (v * 3 % 256) as u8, (255 - v) as u8])
        });
        picture.save(path)?;
    }
    Ok(())
}

/// A folder that goes with the test.
pub struct Place {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    /// An empty folder.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self { root: folder.path().to_path_buf(), _folder: folder })
    }

    /// The path of a name in it.
    pub fn path(&self, name: &str) -> String {
        self.root.join(name).to_string_lossy().into_owned()
    }
}

/// A run of seconds: few channels, one epoch.
pub const TINY: [&str; 10] = [
    "--preset",
    "smoke",
    "--set",
    "train.epochs=1",
    "--set",
    "train.batch_size=4",
    "--set",
    "method.backbone.base_width=4",
    "--set",
    "method.head.hidden=16",
];

/// A call that trains so, and what more it says.
pub fn train<'a>(data: &'a str, run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["train", "simclr", "--data", data, "--run", run];
    arguments.extend(TINY);
    arguments.extend(more);
    arguments
}
