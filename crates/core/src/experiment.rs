//! A whole run from one value: configuration and data in, trained encoder out.
//!
//! A method crate brings a [`MethodConfig`] and presets, [`RunConfig`] adds what every run needs, and [`fit`] puts
//! loader, method, optimiser, loop and run directory together. Programs that want the parts use the parts.

mod cost;
pub mod tiers;

pub use cost::{Passes, RunCost};

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::augment::{EvalTransform, Recipe};
use crate::data::Batches;
use crate::diagnostics::CollapseConfig;
use crate::nn::{BackboneConfig, ParamStore};
use crate::optim::{LrScaling, Optimizer, OptimizerConfig, ParamGroups, Schedule, cosine};
use crate::train::config::to_toml_string;
use crate::train::{CollapseMonitor, Method, Observer, Outcome, Progress, RunDir, TrainConfig, Trainer};
use crate::weights::{self, DataIdentity, MANIFEST_VERSION, Manifest};
use crate::{Error, Result};

/// The settings of a method: unchecked when read, checked before anything is built from them.
pub trait MethodConfig: Serialize + DeserializeOwned + Clone + Send + Sync {
    /// The method's name in tables (`simclr`).
    fn name(&self) -> &'static str;

    /// Checks every range. `at` is where these settings stand in the whole configuration (`method`).
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and the allowed range.
    fn check(&self, at: &str) -> Result<()>;

    /// How many views of a sample the method takes.
    fn views(&self) -> usize;

    /// The backbone.
    fn backbone(&self) -> BackboneConfig;

    /// The views that pass the backbone in a step, for estimates.
    fn passes(&self) -> Passes {
        Passes { trained: (0..self.views()).collect(), momentum: Vec::new() }
    }

    /// Parameters that the paper treats differently (no decay on biases, a frozen layer).
    fn groups(&self) -> ParamGroups {
        ParamGroups::new()
    }

    /// The method with fresh parameters.
    ///
    /// # Errors
    /// What [`MethodConfig::check`] refuses.
    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>>;
}

/// The error of a method's `preset` for a name that is none of `presets` (names, each with where its settings come from).
pub fn unknown_preset(name: &str, presets: &[(&str, &str)]) -> Error {
    let known: Vec<&str> = presets.iter().map(|(name, _)| *name).collect();
    Error::config("preset", format!("`{name}` is unknown; known: {}", known.join(", ")))
}

/// The optimiser with its learning rate over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// The learning rate before scaling.
    pub lr: f64,
    /// How the rate grows with the batch of all ranks.
    pub lr_scaling: LrScaling,
    /// How the rate moves over the run.
    pub schedule: Schedule,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// Where the weight decay ends that begins with the optimiser's and follows a cosine over the steps (DINO: 0.04 to
    /// 0.4). It stays where there is none.
    #[serde(default)]
    pub weight_decay_end: Option<f64>,
}

impl OptimConfig {
    /// Checks every range. `at` is where these settings stand in the whole configuration (`optim`).
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self, at: &str) -> Result<()> {
        self.optimizer.check(&format!("{at}.optimizer"))?;
        self.schedule.check(&format!("{at}.schedule"))?;
        self.lr_scaling.check(&format!("{at}.lr_scaling"))?;
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            let reason = format!("must be above 0 and finite, got {}", self.lr);
            return Err(Error::config(format!("{at}.lr"), reason));
        }
        match self.weight_decay_end {
            Some(end) if !(end >= 0.0 && end.is_finite()) => {
                let reason = format!("must be at least 0 and finite, got {end}");
                Err(Error::config(format!("{at}.weight_decay_end"), reason))
            }
            _ => Ok(()),
        }
    }

    /// The learning rate of a step with so many samples on all ranks together.
    pub fn lr(&self, batch_size: usize, progress: &Progress) -> f64 {
        self.schedule.lr_at(progress, self.lr_scaling.scale(self.lr, batch_size as u64))
    }

    /// The weight decay of a step, where it moves.
    pub fn weight_decay(&self, progress: &Progress) -> Option<f64> {
        let (start, end) = (self.optimizer.weight_decay(), self.weight_decay_end?);
        Some(cosine(start, end, progress.step as f64, progress.total_steps as f64))
    }
}

/// Everything that decides the result of a run. Two runs with equal configuration and data give equal bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig<M> {
    /// The method's own settings.
    pub method: M,
    /// The loop: epochs, batch, seed, checkpoints.
    pub train: TrainConfig,
    /// The optimiser.
    pub optim: OptimConfig,
    /// The views of a sample.
    pub augment: Recipe,
    /// What evaluation does to an image; it travels with the exported encoder.
    pub eval: EvalTransform,
}

impl<M: MethodConfig> RunConfig<M> {
    /// Checks every setting and how they fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self) -> Result<()> {
        self.method.check("method")?;
        self.train.check("train")?;
        self.optim.check("optim")?;
        self.augment.check("augment")?;
        self.eval.check("eval")?;
        let (needs, has) = (self.method.views(), self.augment.view_count());
        if needs != has {
            let reason =
                format!("{} takes {needs} views of a sample, the recipe makes {has}", self.method.name());
            return Err(Error::config("augment.views", reason));
        }
        Ok(())
    }

    /// A hash of the configuration, the same for equal settings.
    ///
    /// # Errors
    /// A configuration that does not serialise.
    pub fn hash(&self) -> Result<String> {
        config_hash(self)
    }

    /// The learning rate of a step.
    pub fn lr(&self, progress: &Progress) -> f64 {
        self.optim.lr(self.train.batch_size, progress)
    }

    /// The weight decay of a step, where it moves.
    pub fn weight_decay(&self, progress: &Progress) -> Option<f64> {
        self.optim.weight_decay(progress)
    }

    /// The optimiser over a method's parameters.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn optimizer(&self, params: &ParamStore) -> Result<Box<dyn Optimizer>> {
        self.optim.optimizer.build(params, &self.method.groups())
    }
}

/// A hash of a configuration, the same for equal settings.
///
/// # Errors
/// A configuration that does not serialise.
pub fn config_hash<T: Serialize>(config: &T) -> Result<String> {
    let hash = blake3::hash(weights::canonical_json(&to_value(config)?).as_bytes());
    Ok(hash.to_hex()[..16].to_string())
}

fn to_value<T: Serialize>(settings: &T) -> Result<serde_json::Value> {
    serde_json::to_value(settings).map_err(|e| Error::config("(config)", e.to_string()))
}

/// What a run needs beside its configuration and its data. None of it changes the result.
pub struct RunOptions<'a> {
    /// The run directory.
    pub dir: PathBuf,
    /// Go on from the newest checkpoint in the directory, if there is one, instead of refusing a directory in use.
    pub resume: bool,
    /// Where parameters live.
    pub device: Device,
    /// Threads that prepare batches.
    pub workers: usize,
    /// Ends the run after the step in progress when raised.
    pub stop: Arc<AtomicBool>,
    /// Progress bars, probes.
    pub observers: Vec<&'a mut dyn Observer>,
}

impl RunOptions<'_> {
    /// A new run in `dir` on the CPU.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            resume: false,
            device: Device::Cpu,
            workers: 2,
            stop: Arc::default(),
            observers: Vec::new(),
        }
    }
}

/// Trains `method` to the end, or until the stop flag is raised. The run directory holds settings, logs, checkpoints
/// and, at the end, `encoder.safetensors`.
///
/// `method` must come from `config.method.build(config.train.seed, ..)`, `batches` from `config.augment` and
/// `config.train`. The collapse instruments watch every run.
///
/// # Errors
/// Settings out of range, a directory in use, data that does not fit, a loss that is not finite.
pub fn train<M: MethodConfig>(
    config: &RunConfig<M>,
    method: &mut dyn Method,
    batches: &dyn Batches,
    options: RunOptions<'_>,
) -> Result<Outcome> {
    config.check()?;
    let parts = RunParts {
        config,
        train: &config.train,
        optim: &config.optim,
        groups: config.method.groups(),
        backbone: config.method.backbone().to_string(),
        preprocessing: weights::canonical_json(&to_value(&config.eval)?),
    };
    train_parts(parts, method, batches, options)
}

/// What a run needs of its configuration, whatever its samples are. [`train`] makes one for methods on images;
/// methods on other samples have a configuration of their own and make it themselves.
pub struct RunParts<'a, C> {
    /// The whole, checked configuration: what the run directory holds.
    pub config: &'a C,
    /// Its settings of the loop.
    pub train: &'a TrainConfig,
    /// Its settings of the optimiser.
    pub optim: &'a OptimConfig,
    /// Parameters that are treated differently.
    pub groups: ParamGroups,
    /// The backbone, for the manifest.
    pub backbone: String,
    /// What happens to a sample before the network, for the manifest.
    pub preprocessing: String,
}

/// As [`train`], for any kind of samples.
///
/// # Errors
/// As [`train`].
pub fn train_parts<C: Serialize>(
    parts: RunParts<'_, C>,
    method: &mut dyn Method,
    batches: &dyn Batches,
    options: RunOptions<'_>,
) -> Result<Outcome> {
    let RunParts { config, train, optim, groups, backbone, preprocessing } = parts;
    let mut optimizer = optim.optimizer.build(method.params(), &groups)?;
    let text = to_toml_string(config)?;
    let used = options.dir.join("config.toml").is_file();
    let dir = if options.resume && used {
        RunDir::resume(&options.dir, &text)?
    } else {
        RunDir::create(&options.dir, &text)?
    };
    let (name, fingerprint) = batches.identity();
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        method: method.name().to_string(),
        branch: method.branch().name().to_string(),
        backbone,
        preprocessing,
        data: DataIdentity { name, fingerprint },
        licence: "unspecified".to_string(),
        origin: None,
    };
    let lr = |progress: &Progress| optim.lr(train.batch_size, progress);
    let weight_decay =
        |progress: &Progress| optim.weight_decay(progress).unwrap_or(optim.optimizer.weight_decay());
    let mut collapse = CollapseMonitor::new(CollapseConfig::default())?;
    let mut trainer = Trainer::new(method, optimizer.as_mut(), batches, &lr, train.clone())
        .stop_flag(options.stop)
        .run_dir(dir)
        .manifest(manifest)
        .observer(&mut collapse);
    if optim.weight_decay_end.is_some() {
        trainer = trainer.weight_decay(&weight_decay);
    }
    for observer in options.observers {
        trainer = trainer.observer(observer);
    }
    trainer.run()
}

/// The loader of a run: the method's views of `source`, in the run's order.
///
/// # Errors
/// A batch larger than the data.
#[cfg(feature = "data")]
pub fn loader<M, S>(
    config: &RunConfig<M>,
    source: S,
    workers: usize,
) -> Result<crate::data::Loader<S, Recipe>>
where
    M: MethodConfig,
    S: crate::data::Source<Sample = crate::augment::Image> + 'static,
{
    let options = crate::data::LoaderOptions {
        workers,
        ..crate::data::LoaderOptions::new(config.train.batch_size, config.train.seed)
    };
    crate::data::Loader::new(source, config.augment.clone(), options)
}

/// Images in, trained encoder out: [`MethodConfig::build`], [`loader`] and [`train`].
///
/// # Errors
/// As [`train`].
#[cfg(feature = "data")]
pub fn fit<M, S>(
    config: &RunConfig<M>,
    source: S,
    options: RunOptions<'_>,
) -> Result<(Box<dyn Method>, Outcome)>
where
    M: MethodConfig,
    S: crate::data::Source<Sample = crate::augment::Image> + 'static,
{
    config.check()?;
    let batches = loader(config, source, options.workers)?;
    let mut method = config.method.build(config.train.seed, &options.device)?;
    let outcome = train(config, method.as_mut(), &batches, options)?;
    Ok((method, outcome))
}

/// Features of every readable sample of a labelled source under the run's evaluation transform, in order, and the
/// samples that could not be read, each with the reason.
///
/// # Errors
/// Samples without labels; images that the network cannot take.
#[cfg(feature = "data")]
pub fn features<S>(
    encode: impl Fn(&candle_core::Tensor) -> Result<candle_core::Tensor>,
    source: S,
    transform: &EvalTransform,
    device: &Device,
    workers: usize,
) -> Result<(crate::eval::Features, Vec<(String, String)>)>
where
    S: crate::data::Source<Sample = crate::augment::Image> + 'static,
{
    const BATCH: usize = 256;
    let name = source.name().to_string();
    let loader = crate::data::SequentialLoader::new(source, transform.clone(), BATCH, workers)?;
    let batches = loader.batches().map(|batch| {
        let (view, labels) = crate::eval::labelled(batch?)?;
        Ok((view.to_device(device)?, labels))
    });
    let features = crate::eval::extract(&name, encode, batches)?;
    Ok((features, loader.skipped().list()))
}
