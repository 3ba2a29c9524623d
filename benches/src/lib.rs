//! Benchmark cases, printed by `cargo xtask bench CASE`.
//!
//! A case measures the median wall time of one unit of work after a warm-up, in this process, on the threads it is
//! given. Speed is shown as a ratio of two runs side by side on one machine, never asserted by a test.

mod cases;
mod measure;

pub use cases::write_pictures;

use anyhow::{Result, bail};
use contrastive_core::kernels::{Precision, precision};
use serde::Serialize;
use serde_json::{Map, Value};

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// The case's name.
    pub case: String,
    /// Which implementation (`contrastive`, with the precision where it is not the usual one).
    pub variant: String,
    /// Samples in a unit of work.
    pub batch: usize,
    /// Threads of the global pool.
    pub threads: usize,
    /// Median wall time of a unit of work, in milliseconds.
    pub ms: f64,
    /// Images (views, embeddings) per second.
    pub images_per_s: f64,
    /// Peak resident memory while the units ran, in megabytes; absent where the system does not tell.
    pub peak_rss_mb: Option<f64>,
    /// Half the distance of the quartiles, over the median.
    pub spread: f64,
    /// What only some cases have: accuracy, speed by layer.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A case: its name, what it measures, its default batch, and how to run it.
pub struct Case {
    /// The name on the command line.
    pub name: &'static str,
    /// One line for the listing.
    pub about: &'static str,
    /// Samples in a unit of work unless told.
    pub batch: usize,
    run: fn(batch: usize, repeats: usize) -> Result<measure::Timing>,
}

/// Every case.
pub fn cases() -> &'static [Case] {
    cases::ALL
}

/// The name of our side at the precision in force.
fn variant() -> String {
    match precision() {
        Precision::F32 => "contrastive".into(),
        other => format!("contrastive {}", other.name()),
    }
}

/// Runs the case of this name, at the precision in force.
///
/// # Errors
/// An unknown name, or an error of the case itself.
pub fn run(name: &str, batch: Option<usize>, repeats: usize) -> Result<Record> {
    let Some(case) = cases().iter().find(|case| case.name == name) else {
        let known: Vec<&str> = cases().iter().map(|case| case.name).collect();
        bail!("no case `{name}`; known: {}", known.join(", "));
    };
    let batch = batch.unwrap_or(case.batch);
    let timing = (case.run)(batch, repeats)?;
    Ok(Record {
        case: name.into(),
        variant: variant(),
        batch,
        threads: rayon::current_num_threads(),
        ms: timing.ms,
        images_per_s: timing.items as f64 / (timing.ms / 1e3),
        peak_rss_mb: timing.peak_rss_mb,
        spread: timing.spread,
        more: timing.more,
    })
}
