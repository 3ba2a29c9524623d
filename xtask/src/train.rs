//! `cargo xtask train`: one method on your own data.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use contrastive_core::data::Split;
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::{Observer, Outcome, ProbeMonitor};

use crate::data;
use crate::methods::{Plan, presets};
use crate::progress::Bar;
use crate::ranks::Ranks;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// The method (`simclr`).
    method: String,
    /// A folder of images, parquet files, or the name of a data set (`sign-digits`, `cifar10`).
    #[arg(long, required_unless_present = "print_config")]
    data: Option<String>,
    /// The run directory.
    #[arg(long, required_unless_present = "print_config")]
    run: Option<PathBuf>,
    /// The preset to begin with; `--print-config` lists them.
    #[arg(long, default_value = "cifar10-repository")]
    preset: String,
    /// A TOML file over the preset.
    #[arg(long)]
    config: Option<PathBuf>,
    /// A setting over both: `train.epochs=200`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print the resolved configuration of a preset and stop; without a name, list the presets.
    #[arg(long, value_name = "PRESET", num_args = 0..=1, default_missing_value = "")]
    print_config: Option<String>,
    /// Go on from the newest checkpoint of the run directory.
    #[arg(long)]
    resume: bool,
    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads that prepare batches, for each rank. Has no effect on the result.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    #[command(flatten)]
    ranks: Ranks,
}

/// The run was stopped by a signal; a checkpoint holds everything.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted: a checkpoint is written, go on with --resume")
    }
}

impl std::error::Error for Interrupted {}

/// Trains.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(preset) = &arguments.print_config {
        if preset.is_empty() {
            for (name, about) in presets(&arguments.method)? {
                println!("{name:<20} {about}");
            }
            return Ok(());
        }
        let plan = Plan::new(&arguments.method, preset, arguments.config.as_deref(), &arguments.set)?;
        print!("{}", plan.toml()?);
        return Ok(());
    }
    let (Some(data), Some(dir)) = (&arguments.data, &arguments.run) else {
        bail!("--data and --run are needed");
    };
    let plan = Plan::new(&arguments.method, &arguments.preset, arguments.config.as_deref(), &arguments.set)?;
    let source = data::source(data, Split::Train)?;
    let stop = stop_flag()?;
    let bar = Mutex::new(Some(Bar::new(plan.name())?));
    let outcome = arguments.ranks.run(&arguments.device, |comm, device| {
        let root = comm.rank() == 0;
        let mut bar = if root { bar.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        let mut probe =
            (root && source.classes() > 1).then(|| ProbeMonitor::new(source.classes(), plan.seed()));
        let mut observers: Vec<&mut dyn Observer> = Vec::new();
        if let Some(bar) = &mut bar {
            println!("{}: {} samples, configuration {}", source.name(), source.len(), plan.hash()?);
            observers.push(bar);
        }
        if let Some(probe) = &mut probe {
            observers.push(probe);
        }
        let options = RunOptions {
            resume: arguments.resume,
            device,
            workers: arguments.workers,
            stop: stop.clone(),
            comm,
            observers,
            ..RunOptions::new(dir)
        };
        Ok(plan.fit(source.clone(), options)?.1)
    })?;
    if outcome == Outcome::Interrupted {
        return Err(Interrupted.into());
    }
    println!("{}", dir.join("encoder.safetensors").display());
    Ok(())
}

/// A flag that SIGINT and SIGTERM raise. A second signal ends the process at once.
pub fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = stop.clone();
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step");
    })
    .context("signal handler")?;
    Ok(stop)
}

/// Names the samples that could not be read.
pub fn tell_skipped(skipped: &[(String, String)]) {
    if !skipped.is_empty() {
        eprintln!("warning: {} samples skipped", skipped.len());
    }
    for (name, reason) in skipped.iter().take(10) {
        eprintln!("warning: skipped {name}: {reason}");
    }
}

/// `cpu`, `cuda:N` or `metal`.
pub fn device(name: &str) -> Result<Device> {
    let (kind, ordinal) = name.split_once(':').unwrap_or((name, "0"));
    let ordinal = || ordinal.parse().with_context(|| format!("device `{name}`"));
    let opened = match kind {
        "cpu" => return Ok(Device::Cpu),
        "cuda" => Device::new_cuda(ordinal()?),
        "metal" => Device::new_metal(ordinal()?),
        _ => bail!("no device `{name}`; known: cpu, cuda:N, metal"),
    };
    // Which feature to build with: see the README.
    opened.with_context(|| format!("device `{name}` (built with the feature `{kind}`?)"))
}
