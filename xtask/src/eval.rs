//! `cargo xtask eval`: the encoder of a run on labelled data.

use std::path::PathBuf;

use anyhow::{Result, bail};
use contrastive_core::data::{Source, Split};
use contrastive_core::eval::{CacheKey, FeatureCache, Features, Protocol};
use contrastive_core::experiment::features;
use contrastive_core::weights::{digest, load_encoder};

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
    let (tensors, manifest) = load_encoder(&encoder)?;
    let Some(manifest) = manifest else { bail!("{}: no manifest", encoder.display()) };
    let plan = Plan::read(&manifest.method, &arguments.run.join("config.toml"))?;
    let mut method = plan.untrained(&device)?;
    method.load_backbone(&tensors, &encoder)?;
    // Features stay with the run: another protocol on the same data costs no forward pass.
    let cache = FeatureCache::new(arguments.run.join("features"));
    let checkpoint = digest(tensors.iter().map(|(name, t)| (name.as_str(), t)))?;
    let of = |split: Split| -> Result<Features> {
        let source = data::source(&arguments.data, split)?;
        let key = CacheKey {
            checkpoint: checkpoint.clone(),
            data: source.fingerprint(),
            preprocessing: format!("{} {}", manifest.branch, manifest.preprocessing),
        };
        Ok(cache.get_or_compute(split.name(), &key, || {
            let (features, skipped) =
                features(|x| method.features(x), source, plan.eval(), &device, arguments.workers)?;
            tell_skipped(&skipped);
            Ok(features)
        })?)
    };
    let (train, test) = (of(Split::Train)?, of(Split::Test)?);
    for protocol in protocols {
        for metric in protocol.evaluate(&train, &test)? {
            let (name, value, unit) = (&metric.name, metric.value, &metric.unit);
            println!("{} {protocol} {name} {value:.4} {unit}", arguments.data);
        }
    }
    Ok(())
}
