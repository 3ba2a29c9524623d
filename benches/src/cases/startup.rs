//! From the start of a process to its first training step.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use contrastive_core::data::{Batches, Split, embedded};
use contrastive_core::dist::single;
use contrastive_core::experiment::loader;
use contrastive_core::nn::ResNetConfig;
use contrastive_core::train::with_big_stack;
use contrastive_simclr::recipe;
use serde_json::Value;

use super::steps::{sgd, simclr, step};
use crate::measure::Timing;

/// The case that [`startup`] starts.
const CHILD: &str = "first_step";

/// Milliseconds since 1970: the one clock that two processes share.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

/// Everything that a run does up to the end of its first step: data, network, first batch, step.
pub(super) fn first_step(batch: usize, _repeats: usize) -> Result<Timing> {
    let begin = now();
    let source = embedded::sign_digits(Split::Train)?;
    let data = now();
    let mut method = simclr(ResNetConfig::cifar(18), 512, None)?;
    let mut optimizer = sgd(method.params())?;
    let network = now();
    let mut run = recipe::preset("cifar10-repository")?;
    run.train.batch_size = batch;
    let batches = loader(&run, source, rayon::current_num_threads(), &single())?;
    let first = batches.epoch(0, 0).next().context("no batch")??;
    let ready = now();
    with_big_stack(|| Ok(step(method.as_mut(), optimizer.as_mut(), &first)))??;
    let end = now();
    Ok(Timing::from_samples(2 * batch, vec![end - begin])
        .with("main", begin)
        .with("ready", ready)
        .with("end", end)
        .with("data_ms", data - begin)
        .with("network_ms", network - data)
        .with("first_batch_ms", ready - network)
        .with("step_ms", end - ready))
}

/// Starts this program again and again, up to the end of the first step.
pub(super) fn startup(batch: usize, repeats: usize) -> Result<Timing> {
    let program = std::env::current_exe()?;
    let (mut whole, mut before) = (Vec::new(), Vec::new());
    let (mut parts, mut peak) = (Value::Null, None);
    // One more to warm the page cache.
    for round in 0..=repeats.max(1) {
        let start = now();
        let child = Command::new(&program)
            .args(["bench", CHILD, "--json", "--batch", &batch.to_string()])
            .output()?;
        if !child.status.success() {
            bail!("{CHILD}: {}", String::from_utf8_lossy(&child.stderr).trim());
        }
        let record: Value = serde_json::from_slice(&child.stdout)?;
        let at = |name: &str| record[name].as_f64().with_context(|| format!("{CHILD}: no `{name}`"));
        if round > 0 {
            whole.push(at("end")? - start);
            before.push(at("ready")? - start);
        }
        peak = record["peak_rss_mb"].as_f64();
        let spawn = at("main")? - start;
        parts = serde_json::json!({
            "spawn_ms": spawn,
            "data_ms": record["data_ms"],
            "network_ms": record["network_ms"],
            "first_batch_ms": record["first_batch_ms"],
            "step_ms": record["step_ms"],
        });
    }
    let ready = Timing::from_samples(2 * batch, before);
    let mut timing = Timing::from_samples(2 * batch, whole);
    timing.peak_rss_mb = peak;
    Ok(timing.with("to_first_step_ms", ready.ms).with("last", parts))
}
