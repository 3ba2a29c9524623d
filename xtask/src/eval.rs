//! `cargo xtask eval`: the encoder of a run on labelled data.

use std::path::PathBuf;

use anyhow::{Result, bail};
use contrastive_core::data::{Source, Split};
use contrastive_core::eval::Protocol;
use contrastive_core::experiment::features;

use crate::data;
use crate::methods::Plan;
use crate::train::{device, tell_skipped};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run directory.
    #[arg(long)]
    run: PathBuf,
    /// Labelled data with a training and a test part.
    #[arg(long)]
    data: String,
    /// Protocols by name; all where none is named.
    #[arg(long = "protocol")]
    protocols: Vec<String>,
    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads that prepare batches.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

/// Evaluates.
pub fn run(arguments: &Arguments) -> Result<()> {
    let protocols = match arguments.protocols.as_slice() {
        [] => Protocol::all().to_vec(),
        names => names.iter().map(|n| Protocol::parse(n)).collect::<Result<_, _>>()?,
    };
    let device = device(&arguments.device)?;
    let encoder = arguments.run.join("encoder.safetensors");
    let (tensors, manifest) = contrastive_core::weights::load_encoder(&encoder)?;
    let Some(manifest) = manifest else { bail!("{}: no manifest", encoder.display()) };
    let plan = Plan::read(&manifest.method, &arguments.run.join("config.toml"))?;
    let mut method = plan.untrained(&device)?;
    method.load_backbone(&tensors, &encoder)?;
    let (train, test) =
        (data::source(&arguments.data, Split::Train)?, data::source(&arguments.data, Split::Test)?);
    let name = test.name().to_string();
    let of = |source| -> Result<_> {
        let (features, skipped) =
            features(|x| method.features(x), source, plan.eval(), &device, arguments.workers)?;
        tell_skipped(&skipped);
        Ok(features)
    };
    let (train, test) = (of(train)?, of(test)?);
    for protocol in protocols {
        for metric in protocol.evaluate(&train, &test)? {
            println!("{name} {protocol} {} {:.4} {}", metric.name, metric.value, metric.unit);
        }
    }
    Ok(())
}
