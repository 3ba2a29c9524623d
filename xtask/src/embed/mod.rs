//! `cargo xtask embed`: images or recordings to embeddings.

mod model;
mod parts;
mod samples;
mod table;
mod write;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use contrastive_core::data::Split;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::data::Images;
use crate::eval::Encoder;
use crate::train::{device, stop_flag, tell_skipped};

use model::{Embedder, Pictures, Speech, Work};
use parts::Parts;
pub use table::{About, Rows};
use write::Format;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run directory, of a method on images or of CPC on speech.
    #[arg(long, required_unless_present = "weights", conflicts_with = "weights")]
    run: Option<PathBuf>,
    /// Weights from elsewhere instead of a run's: a converted encoder, a file or folder of torchvision's, timm's or
    /// `transformers`' networks, or `hub:OWNER/NAME`.
    #[arg(long)]
    weights: Option<String>,
    /// Attention heads of weights that do not tell and whose width is none of the usual ones.
    #[arg(long, requires = "weights")]
    heads: Option<usize>,
    /// What to embed: an image, a folder, a list of files (`.txt`, a path in each line), parquet files, or a data set by
    /// name; for speech, a sound file, a folder or a list.
    #[arg(long)]
    data: String,
    /// The part of parquet files and of sets by name.
    #[arg(long, value_enum, default_value = "train")]
    split: Portion,
    /// The file, `.safetensors`, `.npy`, `.parquet` or `.csv`; may be named several times.
    #[arg(long, required = true)]
    out: Vec<PathBuf>,
    /// Give every embedding unit length.
    #[arg(long)]
    normalize: bool,
    /// Samples of a forward pass.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Samples that are kept at a time when the call is interrupted.
    #[arg(long, default_value_t = 2048)]
    part: usize,
    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads that prepare batches. Has no effect on the result.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Portion {
    /// Training.
    Train,
    /// Test.
    Test,
}

impl Portion {
    fn split(self) -> Split {
        match self {
            Self::Train => Split::Train,
            Self::Test => Split::Test,
        }
    }
}

/// The call was stopped by a signal.
#[derive(Debug)]
pub struct Stopped {
    done: usize,
    all: usize,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interrupted: {} of {} samples are kept, the same call goes on", self.done, self.all)
    }
}

impl std::error::Error for Stopped {}

/// Which network embeds, and how.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// A run's.
    pub run: Option<&'a Path>,
    /// Or one from elsewhere.
    pub weights: Option<&'a str>,
    /// Its attention heads, where it does not tell.
    pub heads: Option<usize>,
    /// The device by name.
    pub device: &'a str,
    /// Samples of a forward pass.
    pub batch: usize,
    /// Threads that prepare batches.
    pub workers: usize,
}

impl Choice<'_> {
    fn open(self, data: &str, portion: Portion) -> Result<Box<dyn Embedder>> {
        let device = device(self.device)?;
        let work = Work { batch: self.batch, workers: self.workers };
        let encoder = match (self.run, self.weights) {
            (Some(run), _) if model::hears(run)? => {
                return Ok(Box::new(Speech::new(run, data, &device)?));
            }
            (Some(run), _) => Encoder::open(run, &device)?,
            (None, Some(place)) if model::hears(Path::new(place)).unwrap_or(false) => {
                return Ok(Box::new(Speech::new(Path::new(place), data, &device)?));
            }
            (None, Some(place)) => Encoder::of_weights(place, self.heads, &device)?,
            (None, None) => bail!("--run or --weights is needed"),
        };
        Ok(Box::new(Pictures::new(encoder, data, portion.split(), work)?))
    }
}

/// Embeddings of all that can be read at `place`, in memory.
pub fn embed_all(choice: Choice<'_>, place: &str) -> Result<(Rows, About)> {
    let embedder = choice.open(place, Portion::Train)?;
    let about = embedder.about()?;
    let bar = bar(embedder.len() as u64)?;
    let mut seen = |count: usize| {
        bar.inc(count as u64);
        true
    };
    let part = embedder.embed(0..embedder.len(), &mut seen)?.unwrap_or_default();
    bar.finish_and_clear();
    tell_skipped(&part.skipped);
    if part.rows.len() == 0 {
        bail!("{place}: no sample could be read");
    }
    Ok((part.rows, about))
}

/// The images at `place`, as they are embedded.
pub fn images(place: &str, portion: Portion) -> Result<Images> {
    Ok(samples::images(place, portion.split())?.0)
}

/// Embeds.
pub fn run(arguments: &Arguments) -> Result<()> {
    let stop = stop_flag()?;
    embed(arguments, &mut || !stop.load(Ordering::SeqCst))
}

/// [`run`] until `go_on` says no.
fn embed(arguments: &Arguments, go_on: &mut dyn FnMut() -> bool) -> Result<()> {
    for out in &arguments.out {
        Format::of(out)?;
    }
    let Some(first) = arguments.out.first() else { bail!("--out is needed") };
    if arguments.part == 0 {
        bail!("--part must be at least 1");
    }
    let choice = Choice {
        run: arguments.run.as_deref(),
        weights: arguments.weights.as_deref(),
        heads: arguments.heads,
        device: &arguments.device,
        batch: arguments.batch,
        workers: arguments.workers,
    };
    let embedder = choice.open(&arguments.data, arguments.split)?;
    let mut about = embedder.about()?;
    let all = embedder.len();
    // What decides the bits of a part.
    let key = json!({"about": about, "batch": arguments.batch, "part": arguments.part});
    let parts = Parts::beside(first, key, all.div_ceil(arguments.part));
    let bar = bar(all as u64)?;
    let mut skipped = Vec::new();
    for i in 0..parts.len() {
        let range = i * arguments.part..((i + 1) * arguments.part).min(all);
        if let Some(part) = parts.read(i) {
            bar.inc(range.len() as u64);
            bar.reset_eta();
            skipped.extend(part.skipped);
            continue;
        }
        let start = range.start;
        let mut seen = |count: usize| {
            bar.inc(count as u64);
            go_on()
        };
        let Some(part) = embedder.embed(range, &mut seen)? else {
            bar.abandon();
            return Err(Stopped { done: start, all }.into());
        };
        parts.write(i, &part)?;
        skipped.extend(part.skipped);
    }
    bar.finish_and_clear();
    tell_skipped(&skipped);
    about.normalized = arguments.normalize;
    for out in &arguments.out {
        let rows = write::write(out, &parts, &about)?;
        println!("{}: {rows} embeddings", out.display());
    }
    parts.remove()
}

fn bar(all: u64) -> Result<ProgressBar> {
    let style = "embedding [{bar:30}] {pos}/{len} ({per_sec}, {eta} left)";
    Ok(ProgressBar::new(all).with_style(ProgressStyle::with_template(style)?.progress_chars("=> ")))
}

#[cfg(test)]
pub mod tests;
