//! A whole run from one value: configuration and data in, trained encoder out.
//!
//! A method crate brings a [`MethodConfig`] and presets, [`RunConfig`] adds what every run needs, and [`fit`] puts
//! loader, method, optimiser, loop and run directory together. Programs that want the parts use the parts.

use candle_core::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::augment::{EvalTransform, Recipe};
use crate::nn::ParamStore;
use crate::optim::{LrScaling, Optimizer, OptimizerConfig, ParamGroups, Schedule};
use crate::train::{Method, Progress, TrainConfig};
use crate::{Error, weights};

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

    /// The backbone in words, for manifests (`resnet50`).
    fn backbone(&self) -> String;

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
        self.optim.optimizer.check("optim.optimizer")?;
        self.optim.schedule.check("optim.schedule")?;
        self.optim.lr_scaling.check("optim.lr_scaling")?;
        if !(self.optim.lr > 0.0 && self.optim.lr.is_finite()) {
            return Err(Error::config("optim.lr", format!("must be above 0 and finite, got {}", self.optim.lr)));
        }
        self.augment.check("augment")?;
        self.eval.check("eval")?;
        let (needs, has) = (self.method.views(), self.augment.view_count());
        if needs != has {
            let reason = format!("{} takes {needs} views of a sample, the recipe makes {has}", self.method.name());
            return Err(Error::config("augment.views", reason));
        }
        Ok(())
    }

    /// A hash of the configuration, the same for equal settings.
    ///
    /// # Errors
    /// A configuration that does not serialise.
    pub fn hash(&self) -> Result<String> {
        let value = serde_json::to_value(self).map_err(|e| Error::config("(config)", e.to_string()))?;
        let hash = blake3::hash(weights::canonical_json(&value).as_bytes());
        Ok(hash.to_hex()[..16].to_string())
    }

    /// The learning rate of a step.
    pub fn lr(&self, progress: &Progress) -> f64 {
        let base = self.optim.lr_scaling.scale(self.optim.lr, self.train.batch_size as u64);
        self.optim.schedule.lr_at(progress, base)
    }

    /// The optimiser over a method's parameters.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn optimizer(&self, params: &ParamStore) -> Result<Box<dyn Optimizer>> {
        self.optim.optimizer.build(params, &self.method.groups())
    }
}

/// What a run needs beside its configuration and its data. None of it changes the result.
pub struct RunOptions<'a> {
    /// The run directory.
    pub dir: std::path::PathBuf,
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
    pub fn new(dir: impl Into<std::path::PathBuf>) -> Self {
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
