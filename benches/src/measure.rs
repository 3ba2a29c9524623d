//! Timing.

use std::time::Instant;

use anyhow::Result;

/// What a case gives back.
pub struct Timing {
    /// Median wall time of a unit, in milliseconds.
    pub ms: f64,
    /// Images (views, embeddings) in a unit.
    pub items: usize,
}

/// Runs `unit` once to warm up, then `repeats` times, and takes the median.
pub fn time(items: usize, repeats: usize, mut unit: impl FnMut() -> Result<()>) -> Result<Timing> {
    unit()?;
    let mut samples = Vec::with_capacity(repeats);
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        unit()?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
    }
    samples.sort_by(f64::total_cmp);
    Ok(Timing { ms: samples[samples.len() / 2], items })
}

/// Peak resident memory of this process, where the system has `/proc`.
pub fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024.0)
}
