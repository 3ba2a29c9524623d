//! A whole run from one value: configuration and data in, trained encoder out.
//!
//! A method crate brings a [`MethodConfig`] and presets, [`RunConfig`] adds what every run needs, and [`fit`] puts
//! loader, method, optimiser, loop and run directory together. Programs that want the parts use the parts.

mod cost;
mod run;
pub mod tiers;

pub use cost::{Passes, RunCost};
pub use run::{RunOptions, RunParts, train, train_parts};
#[cfg(feature = "data")]
pub use run::{fit, loader};

use candle_core::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::augment::{EvalTransform, Recipe};
use crate::nn::{BackboneConfig, ParamStore};
use crate::optim::{LrScaling, Optimizer, OptimizerConfig, ParamGroups, Schedule, cosine};
use crate::train::{Method, Progress, TrainConfig};
use crate::weights;
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
