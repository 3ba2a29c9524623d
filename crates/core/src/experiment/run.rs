//! The parts of a run put together, on one rank or several.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::{MethodConfig, OptimConfig, RunConfig, config_hash, to_value};
#[cfg(feature = "data")]
use crate::augment::Recipe;
use crate::data::Batches;
use crate::diagnostics::CollapseConfig;
use crate::dist::{Comm, single};
use crate::optim::ParamGroups;
use crate::train::config::to_toml_string;
use crate::train::{
    Checkpoint, CheckpointFolder, CollapseMonitor, Method, Observer, Outcome, Progress, RunDir, TrainConfig,
    Trainer,
};
use crate::weights::{self, DataIdentity, MANIFEST_VERSION, Manifest};
use crate::{Error, Result};

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
    /// The ranks that train together; each calls with its own handle and the same folder. Only rank 0 writes.
    pub comm: Comm,
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
            comm: single(),
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
    let comm = options.comm;
    agree(&comm, config, batches)?;
    let mut optimizer = optim.optimizer.build(method.params(), &groups)?;
    let place = Place::open(&comm, &options.dir, &to_toml_string(config)?, options.resume)?;
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
    let checkpoint;
    let mut trainer = Trainer::new(method, optimizer.as_mut(), batches, &lr, train.clone())
        .stop_flag(options.stop)
        .comm(comm)
        .manifest(manifest)
        .observer(&mut collapse);
    match place {
        Place::Root(dir) => trainer = trainer.run_dir(dir),
        Place::Other(Some(from)) => {
            checkpoint = from;
            trainer = trainer.resume_from(&checkpoint);
        }
        Place::Other(None) => {}
    }
    if optim.weight_decay_end.is_some() {
        trainer = trainer.weight_decay(&weight_decay);
    }
    for observer in options.observers {
        trainer = trainer.observer(observer);
    }
    trainer.run()
}

/// The loader of a run: the method's views of `source`, in the run's order. Each of several ranks gets its part of
/// every batch.
///
/// # Errors
/// A batch larger than the data.
#[cfg(feature = "data")]
pub fn loader<M, S>(
    config: &RunConfig<M>,
    source: S,
    workers: usize,
    comm: &Comm,
) -> Result<crate::data::Loader<S, Recipe>>
where
    M: MethodConfig,
    S: crate::data::Source<Sample = crate::augment::Image> + 'static,
{
    let options = crate::data::LoaderOptions {
        workers,
        ..crate::data::LoaderOptions::new(config.train.batch_size, config.train.seed)
    };
    crate::data::Loader::new(source, config.augment.clone(), options.on(comm))
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
    let batches = loader(config, source, options.workers, &options.comm)?;
    let mut method = config.method.build(config.train.seed, &options.device)?;
    let outcome = train(config, method.as_mut(), &batches, options)?;
    Ok((method, outcome))
}

/// Where a rank writes and what it goes on from.
enum Place {
    /// Rank 0 has the folder.
    Root(RunDir),
    /// The others have the checkpoint that rank 0 goes on from.
    Other(Option<Checkpoint>),
}

impl Place {
    fn open(comm: &Comm, dir: &Path, config: &str, resume: bool) -> Result<Self> {
        if comm.rank() > 0 {
            let step = comm.broadcast(&Tensor::new(&[-1i64], &Device::Cpu)?, 0)?.to_vec1::<i64>()?[0];
            let Ok(step) = u64::try_from(step) else { return Ok(Self::Other(None)) };
            let folder = CheckpointFolder::new(&dir.join("checkpoints"));
            return Ok(Self::Other(Some(Checkpoint::load(&folder.path(step))?)));
        }
        let used = dir.join("config.toml").is_file();
        let dir = if resume && used { RunDir::resume(dir, config)? } else { RunDir::create(dir, config)? };
        let step = dir.checkpoint().map_or(-1, |c| c.header().progress.step as i64);
        comm.broadcast(&Tensor::new(&[step], &Device::Cpu)?, 0)?;
        Ok(Self::Root(dir))
    }
}

/// Ranks that differ in settings or data would train on without a word, to no result.
fn agree<C: Serialize>(comm: &Comm, config: &C, batches: &dyn Batches) -> Result<()> {
    if comm.size() == 1 {
        return Ok(());
    }
    let own = format!("{} {:?}", config_hash(config)?, batches.identity());
    let own =
        i64::from_le_bytes(*blake3::hash(own.as_bytes()).as_bytes().first_chunk::<8>().unwrap_or(&[0; 8]));
    let all = comm.all_gather(&Tensor::new(&[own], &Device::Cpu)?)?.to_vec1::<i64>()?;
    match all.iter().position(|other| *other != all[0]) {
        Some(rank) => {
            Err(Error::Rank { rank, reason: "has other settings or other data than rank 0".to_string() })
        }
        None => Ok(()),
    }
}
