//! Timing, and the memory that a case takes.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Map, Value};

/// A repeat lasts at least this long: a short unit of work runs several times in it.
const SHORTEST: f64 = 0.15;

/// What a case gives back.
pub struct Timing {
    /// Median wall time of a unit, in milliseconds.
    pub ms: f64,
    /// Half the distance of the quartiles, over the median.
    pub spread: f64,
    /// Images (views, embeddings) in a unit.
    pub items: usize,
    /// Peak resident memory while the units ran, in megabytes; absent where the system does not tell.
    pub peak_rss_mb: Option<f64>,
    /// Whatever else the case has to say.
    pub more: Map<String, Value>,
}

impl Timing {
    /// From the wall times of the repeats, in milliseconds.
    pub fn from_samples(items: usize, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |part: f64| samples[((samples.len() - 1) as f64 * part).round() as usize];
        let ms = at(0.5);
        Self {
            ms,
            spread: (at(0.75) - at(0.25)) / 2.0 / ms,
            items,
            peak_rss_mb: peak_rss_mb(),
            more: Map::new(),
        }
    }

    /// Adds one more figure.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.into(), value.into());
        self
    }
}

/// Runs `unit` to warm up, then measures `repeats` times, and takes the median.
pub fn time(items: usize, repeats: usize, mut unit: impl FnMut() -> Result<()>) -> Result<Timing> {
    forget_peak();
    let mut run = |times: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..times {
            unit()?;
        }
        Ok(start.elapsed().as_secs_f64())
    };
    let first = run(1)?;
    // The first call of a short unit mostly measures caches and page faults.
    let once = if first < 1.0 { run(1)? } else { first };
    let times = (SHORTEST / once.max(1e-7)).ceil().max(1.0) as usize;
    let samples =
        (0..repeats.max(1)).map(|_| Ok(run(times)? / times as f64 * 1e3)).collect::<Result<Vec<_>>>()?;
    Ok(Timing::from_samples(items, samples))
}

/// Sets the peak back to what is in use now, where the system can (Linux).
fn forget_peak() {
    // Without it the peak merely includes the preparation of the case.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Peak resident memory of this process, where the system has `/proc`.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024.0)
}
