//! `cargo xtask eval`: the encoder of a run, or weights from elsewhere, on labelled data.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use contrastive_core::augment::EvalTransform;
use contrastive_core::data::{Source, Split};
use contrastive_core::eval::{CacheKey, FeatureCache, Features, Metric, Protocol};
use contrastive_core::experiment::features;
use contrastive_core::image_eval::{ImageProtocol, Options, Subject};
use contrastive_core::nn::{BackboneConfig, Mode, Module};
use contrastive_core::train::config::{read, to_toml_string};
use contrastive_core::weights::{digest, load_encoder};

use crate::data;
use crate::methods::Plan;
use crate::progress::Bar;
use crate::train::{device, stop_flag, tell_skipped};
use crate::weights::pretrained;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run directory.
    #[arg(long, required_unless_present = "weights", conflicts_with = "weights")]
    run: Option<PathBuf>,
    /// Weights from elsewhere instead of a run's: a converted encoder, a file or folder of torchvision's, timm's or
    /// `transformers`' networks, or `hub:OWNER/NAME`.
    #[arg(long)]
    weights: Option<String>,
    /// Attention heads of weights that do not tell and whose width is none of the usual ones.
    #[arg(long, requires = "weights")]
    heads: Option<usize>,
    /// Where protocols that train on images keep their checkpoints; the run directory unless told.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Labelled data with a training and a test part.
    #[arg(long)]
    data: String,
    /// Protocols by name, as docs/protocols.md lists them; those of the tables where none is named.
    #[arg(long = "protocol", value_name = "NAME")]
    protocols: Vec<String>,
    /// A setting over those of the protocols that train on images: `train.epochs=10`. What is measured is then no longer
    /// the protocol, and its name is printed with `+set`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print the settings of the protocols that train on images and stop.
    #[arg(long)]
    print_config: bool,
    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads that prepare batches.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

/// A protocol was stopped by a signal.
#[derive(Debug)]
pub struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted: a checkpoint is written, the same call goes on from it")
    }
}

impl std::error::Error for Stopped {}

/// The named protocols: on frozen features and on images.
fn parse(names: &[String]) -> Result<(Vec<Protocol>, Vec<ImageProtocol>)> {
    if names.is_empty() {
        return Ok((Protocol::all().to_vec(), Vec::new()));
    }
    let (mut frozen, mut images) = (Vec::new(), Vec::new());
    for name in names {
        match (Protocol::parse(name), ImageProtocol::parse(name)) {
            (Ok(protocol), _) => frozen.push(protocol),
            (_, Ok(protocol)) => images.push(protocol),
            _ => {
                let own = Protocol::all().iter().chain(Protocol::further()).map(|p| p.name());
                let known: Vec<&str> = own.chain(ImageProtocol::all().map(ImageProtocol::name)).collect();
                bail!("no protocol `{name}`; known: {}", known.join(", "))
            }
        }
    }
    Ok((frozen, images))
}

/// Evaluates.
pub fn run(arguments: &Arguments) -> Result<()> {
    let (frozen, images) = parse(&arguments.protocols)?;
    if images.is_empty() && (arguments.print_config || !arguments.set.is_empty()) {
        bail!("--set and --print-config are for protocols that train on images; name one with --protocol");
    }
    let device = device(&arguments.device)?;
    let encoder = match (&arguments.run, &arguments.weights) {
        (Some(run), _) => Encoder::open(run, &device)?,
        (None, Some(place)) => Encoder::of_weights(place, arguments.heads, &device)?,
        (None, None) => bail!("--run or --weights is needed"),
    };
    let folder = arguments.out.as_ref().or(arguments.run.as_ref()).map(|folder| folder.join("protocols"));
    if folder.is_none() && !images.is_empty() && !arguments.print_config {
        bail!("--out is needed: protocols that train on images keep checkpoints");
    }
    if !arguments.print_config {
        let of = |split| encoder.features(&arguments.data, split, arguments.workers);
        let test = if frozen.is_empty() { None } else { Some(of(Split::Test)?) };
        let needed = frozen.iter().any(|p| p.needs_train());
        let train = if needed { Some(of(Split::Train)?) } else { None };
        if let Some(test) = &test {
            for protocol in frozen {
                // Those that need no training set do not look at the one they get.
                tell(
                    &arguments.data,
                    protocol.name(),
                    &protocol.evaluate(train.as_ref().unwrap_or(test), test)?,
                );
            }
        }
    }
    if images.is_empty() {
        return Ok(());
    }
    let subject = encoder.subject()?;
    let train = data::source(&arguments.data, Split::Train)?;
    if arguments.print_config {
        for protocol in images {
            for run in protocol.runs_on(&subject, &train, &arguments.set)? {
                println!("{}", to_toml_string(&run)?);
            }
        }
        return Ok(());
    }
    let test = data::source(&arguments.data, Split::Test)?;
    let stop = stop_flag()?;
    for protocol in images {
        let mut bar = Bar::new(protocol.name())?;
        let options = Options {
            dir: folder.clone().unwrap_or_default(),
            device: encoder.device.clone(),
            workers: arguments.workers,
            stop: stop.clone(),
            set: arguments.set.clone(),
            observer: Some(&mut bar),
        };
        let Some(measured) = protocol.measure(&subject, &train, &test, options)? else {
            return Err(Stopped.into());
        };
        drop(bar);
        tell_skipped(&measured.skipped);
        let changed = if arguments.set.is_empty() { "" } else { "+set" };
        tell(&arguments.data, &format!("{protocol}{changed}"), &measured.metrics);
    }
    Ok(())
}

fn tell(data: &str, protocol: &str, metrics: &[Metric]) {
    for Metric { name, value, unit } in metrics {
        let value = if unit == "setting" { format!("{value:e}") } else { format!("{value:.4}") };
        println!("{data} {protocol} {name} {value} {unit}");
    }
}

/// From images `[N, C, H, W]` to features `[N, D]`.
type Encode = Box<dyn Fn(&Tensor) -> contrastive_core::Result<Tensor>>;

/// The encoder of a finished run, or one from elsewhere.
pub struct Encoder {
    /// The run directory; none for weights from elsewhere.
    run: Option<PathBuf>,
    path: PathBuf,
    name: String,
    encode: Encode,
    /// Known for weights from elsewhere; a run's is in its configuration.
    backbone: Option<BackboneConfig>,
    eval: EvalTransform,
    tensors: HashMap<String, Tensor>,
    /// Branch and preprocessing, as features are kept by them.
    preprocessing: String,
    device: Device,
}

impl Encoder {
    /// Reads it from a run directory.
    pub fn open(run: &Path, device: &Device) -> Result<Self> {
        let path = run.join("encoder.safetensors");
        let (tensors, manifest) = load_encoder(&path)?;
        let Some(manifest) = manifest else { bail!("{}: no manifest", path.display()) };
        let plan = Plan::read(&manifest.method, &run.join("config.toml"))?;
        let mut method = plan.untrained(device)?;
        method.load_backbone(&tensors, &path)?;
        Ok(Self {
            run: Some(run.to_path_buf()),
            path,
            preprocessing: format!("{} {}", manifest.branch, manifest.preprocessing),
            name: manifest.method,
            encode: Box::new(move |x| method.features(x)),
            backbone: None,
            eval: plan.eval().clone(),
            tensors,
            device: device.clone(),
        })
    }

    /// Reads weights from elsewhere.
    pub fn of_weights(place: &str, heads: Option<usize>, device: &Device) -> Result<Self> {
        let read = pretrained(place, heads)?;
        let (backbone, _) = read.build(device)?;
        Ok(Self {
            run: None,
            path: read.source,
            preprocessing: String::new(),
            name: short_name(place),
            encode: Box::new(move |x| backbone.forward(x, &Mode::eval())),
            backbone: Some(read.config),
            eval: read.preprocessing,
            tensors: read.tensors,
            device: device.clone(),
        })
    }

    /// Images `[N, C, H, W]` to features `[N, D]`.
    pub fn encode(&self, x: &Tensor) -> contrastive_core::Result<Tensor> {
        (self.encode)(&x.to_device(&self.device)?)
    }

    /// What happens to an image before the network.
    pub fn eval(&self) -> &EvalTransform {
        &self.eval
    }

    /// Hash of the weights.
    pub fn digest(&self) -> Result<String> {
        Ok(digest(self.tensors.iter().map(|(name, t)| (name.as_str(), t)))?)
    }

    /// The method that trained it.
    pub fn method(&self) -> &str {
        &self.name
    }

    /// Features of a part of a data set. They stay with the run: another protocol on the same data costs no forward
    /// pass.
    pub fn features(&self, data: &str, split: Split, workers: usize) -> Result<Features> {
        let source = data::source(data, split)?;
        let fingerprint = source.fingerprint();
        let compute = || -> contrastive_core::Result<Features> {
            let (features, skipped) = features(&self.encode, source, &self.eval, &self.device, workers)?;
            tell_skipped(&skipped);
            Ok(features)
        };
        let Some(run) = &self.run else { return Ok(compute()?) };
        let key = CacheKey {
            checkpoint: self.digest()?,
            data: fingerprint,
            preprocessing: self.preprocessing.clone(),
        };
        Ok(FeatureCache::new(run.join("features")).get_or_compute(split.name(), &key, compute)?)
    }

    /// The encoder with another preparation of images.
    pub fn with_eval(self, eval: EvalTransform) -> Self {
        Self { eval, ..self }
    }

    /// What protocols on images take.
    pub fn subject(&self) -> Result<Subject> {
        /// The part of a configuration that all methods with one backbone share.
        #[derive(serde::Deserialize)]
        struct Run {
            method: Settings,
        }
        #[derive(serde::Deserialize)]
        struct Settings {
            backbone: BackboneConfig,
        }
        let backbone = match (&self.run, self.backbone) {
            (Some(run), None) => {
                let run: Run = read(&run.join("config.toml"))
                    .context("protocols that train on images need a method with one backbone")?;
                run.method.backbone
            }
            (_, Some(backbone)) => backbone,
            (None, None) => bail!("{}: no backbone", self.path.display()),
        };
        Ok(Subject {
            backbone,
            tensors: self.tensors.clone(),
            path: self.path.clone(),
            eval: self.eval.clone(),
        })
    }
}

/// A name for weights from elsewhere that is the same wherever they lie.
fn short_name(place: &str) -> String {
    if place.starts_with("hub:") {
        return place.to_string();
    }
    Path::new(place).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protocol_can_be_named() -> Result<()> {
        let (frozen, images) = parse(&[])?;
        assert_eq!((frozen.as_slice(), images.len()), (Protocol::all(), 0));
        let frozen = Protocol::all().iter().chain(Protocol::further()).map(|p| p.name());
        let names: Vec<String> =
            frozen.chain(ImageProtocol::all().map(ImageProtocol::name)).map(String::from).collect();
        let (frozen, images) = parse(&names)?;
        assert_eq!((frozen.len(), images.len()), (7, 17));
        let error = parse(&["linear".into()]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(names.iter().all(|name| error.contains(name)), "{error}");
        // The page describes each of them.
        let page = std::fs::read_to_string(crate::tables::root().join("docs/protocols.md"))?;
        for name in names {
            assert!(page.contains(&format!("`{name}`")), "docs/protocols.md has no `{name}`");
        }
        Ok(())
    }
}
