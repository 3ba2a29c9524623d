//! Trains an actor-critic with and without CPC on a task and prints both learning curves:
//!
//! ```sh
//! cargo run --release --features rl --example rl -- TASK RUN [PRESET] [key=value ...]
//! ```
//!
//! TASK is one of the mazes (`watermaze`, `explore_goals`, `seek_avoid`, `targets`, `keys_doors`) or `gym:` and the name
//! of an environment of Gymnasium. Both runs go into the folder RUN, with a `curve.json` each; run it again to go on.
//! `minutes=M` ends each run after about M minutes, `parts=P` cuts the curves into P parts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::config::layered;
use contrastive_core::train::{EpochRecord, Method, Notes, Observer, Outcome, StepRecord};
use contrastive_cpc::rl::run::fit;
use contrastive_cpc::rl::{Curve, recipe};

/// Prints epochs and ends the run when its time is over.
struct Watch {
    began: Instant,
    minutes: f64,
    stop: Arc<AtomicBool>,
    /// Updates done.
    updates: u64,
}

impl Observer for Watch {
    fn on_step(&mut self, record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        self.updates = record.progress.step + 1;
        if self.began.elapsed().as_secs_f64() > 60.0 * self.minutes {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_epoch(
        &mut self,
        record: &EpochRecord<'_>,
        _: &dyn Method,
        _: &mut Notes,
    ) -> contrastive_core::Result<()> {
        let term = |name: &str| record.terms.iter().find(|(n, _)| n == name).map_or(f64::NAN, |(_, v)| *v);
        println!(
            "epoch {}/{} return {:.2} entropy {:.3} cpc {:.3} (accuracy {:.3}) {:.1} s",
            record.progress.epoch + 1,
            record.progress.total_epochs,
            term("return"),
            term("entropy"),
            term("cpc"),
            term("cpc/accuracy"),
            record.seconds
        );
        Ok(())
    }

    fn on_warning(&mut self, step: u64, text: &str) {
        println!("step {step}: {text}");
    }
}

fn print(title: &str, curve: &Curve) {
    println!("\n{title}\n{:>12} {:>9} {:>9} {:>9}", "frames", "return", "spread", "episodes");
    for point in &curve.points {
        println!("{:>12} {:>9.3} {:>9.3} {:>9}", point.frames, point.mean, point.spread, point.episodes);
    }
}

fn main() -> Result<()> {
    let (mut words, mut sets, mut minutes, mut parts) = (Vec::new(), Vec::new(), f64::INFINITY, 10);
    for arg in std::env::args().skip(1) {
        match arg.split_once('=') {
            Some(("minutes", value)) => minutes = value.parse()?,
            Some(("parts", value)) => parts = value.parse()?,
            Some(_) => sets.push(arg),
            None => words.push(arg),
        }
    }
    let usage = "usage: rl TASK RUN [PRESET] [minutes=M] [parts=P] [key=value ...]";
    let task = words.first().context(usage)?;
    let folder = PathBuf::from(words.get(1).context(usage)?);
    let mut base = recipe::preset(words.get(2).map_or("smoke", String::as_str))?;
    base.environment.name.clone_from(task);
    let mut base = layered(&base, None, &sets)?;
    base.train.batch_size = base.method.rows();
    let mut curves = Vec::new();
    for enabled in [false, true] {
        let mut run = base.clone();
        run.method.cpc.enabled = enabled;
        let name = if enabled { "a2c-cpc" } else { "a2c" };
        let stop = Arc::new(AtomicBool::new(false));
        let mut watch = Watch { began: Instant::now(), minutes, stop: stop.clone(), updates: 0 };
        let dir = folder.join(name);
        println!("{name} on {task}");
        let options = RunOptions { resume: true, stop, observers: vec![&mut watch], ..RunOptions::new(&dir) };
        let (method, outcome) = fit(&run, options)?;
        let (updates, seconds) = (watch.updates, watch.began.elapsed().as_secs_f64());
        if outcome == Outcome::Interrupted {
            println!("ended after {updates} updates, {seconds:.0} s");
        }
        let total = run.train.epochs * run.method.updates_per_epoch;
        let curve = method.curve(if updates == 0 { total } else { updates }, parts);
        let path = dir.join("curve.json");
        std::fs::write(&path, serde_json::to_string(&curve)?).with_context(|| path.display().to_string())?;
        curves.push((name, curve));
    }
    for (name, curve) in &curves {
        print(&format!("{name} on {task}"), curve);
    }
    Ok(())
}
