//! The methods that can be run by name. A new method has a place in [`NAMES`], [`presets`], [`published`],
//! [`Plan::new`] and [`Plan::read`], and nowhere else in this program.

use std::path::Path;

use anyhow::{Result, bail};
use candle_core::Device;
use contrastive_core::augment::EvalTransform;
use contrastive_core::experiment::{MethodConfig, RunConfig, RunOptions, fit};
use contrastive_core::nn::BackboneConfig;
use contrastive_core::train::config::{layered, read, to_toml_string};
use contrastive_core::train::{Method, Outcome};
use contrastive_simclr::SimClrConfig;

use crate::baseline::SupervisedConfig;
use crate::data::Images;

/// The methods.
pub const NAMES: [&str; 1] = ["simclr"];

/// The presets of a method, each with where it comes from.
pub fn presets(method: &str) -> Result<&'static [(&'static str, &'static str)]> {
    match method {
        "simclr" => Ok(&contrastive_simclr::recipe::PRESETS),
        _ => unknown(method),
    }
}

/// The paper's linear top-1 on ImageNet for the preset of tier `paper`, in percent.
pub fn published(method: &str) -> Option<f64> {
    (method == "simclr").then_some(contrastive_simclr::recipe::IMAGENET_LINEAR_100_EPOCHS)
}

fn unknown<T>(method: &str) -> Result<T> {
    bail!("no method `{method}`; known: {}", NAMES.join(", "))
}

/// A checked run configuration whose method is known at run time only.
pub struct Plan {
    run: Box<dyn AnyRun>,
    backbone: BackboneConfig,
}

impl Plan {
    /// The preset of a method, overlaid by a TOML file and by `key=value` settings.
    pub fn new(method: &str, preset: &str, file: Option<&Path>, set: &[String]) -> Result<Self> {
        match method {
            "simclr" => {
                let run = layered(&contrastive_simclr::recipe::preset(preset)?, file, set)?;
                Self::simclr(run)
            }
            _ => unknown(method),
        }
    }

    /// The configuration that a run directory holds.
    pub fn read(method: &str, path: &Path) -> Result<Self> {
        match method {
            "simclr" => Self::simclr(read(path)?),
            _ => unknown(method),
        }
    }

    fn simclr(run: RunConfig<SimClrConfig>) -> Result<Self> {
        run.check()?;
        Ok(Self { backbone: run.method.backbone, run: Box::new(run) })
    }

    /// The supervised run beside this one: the same backbone, budget and optimiser.
    pub fn supervised(&self, classes: usize) -> Self {
        Self { run: self.run.supervised(self.backbone, classes), backbone: self.backbone }
    }
}

impl std::ops::Deref for Plan {
    type Target = dyn AnyRun;

    fn deref(&self) -> &Self::Target {
        self.run.as_ref()
    }
}

/// What can be asked of a [`RunConfig`] without knowing its method.
pub trait AnyRun: Send + Sync {
    /// The method's name in tables.
    fn name(&self) -> &'static str;
    /// Everything resolved, as TOML.
    fn toml(&self) -> contrastive_core::Result<String>;
    /// Hash of the configuration.
    fn hash(&self) -> contrastive_core::Result<String>;
    /// Epochs of the run.
    fn epochs(&self) -> u64;
    /// The run's seed.
    fn seed(&self) -> u64;
    /// What evaluation does to an image.
    fn eval(&self) -> &EvalTransform;
    /// The method with random weights.
    fn untrained(&self, device: &Device) -> contrastive_core::Result<Box<dyn Method>>;
    /// Trains.
    fn fit(
        &self,
        source: Images,
        options: RunOptions<'_>,
    ) -> contrastive_core::Result<(Box<dyn Method>, Outcome)>;
    /// The supervised run beside this one.
    fn supervised(&self, backbone: BackboneConfig, classes: usize) -> Box<dyn AnyRun>;
}

impl<M: MethodConfig + 'static> AnyRun for RunConfig<M> {
    fn name(&self) -> &'static str {
        self.method.name()
    }

    fn toml(&self) -> contrastive_core::Result<String> {
        to_toml_string(self)
    }

    fn hash(&self) -> contrastive_core::Result<String> {
        RunConfig::hash(self)
    }

    fn epochs(&self) -> u64 {
        self.train.epochs
    }

    fn seed(&self) -> u64 {
        self.train.seed
    }

    fn eval(&self) -> &EvalTransform {
        &self.eval
    }

    fn untrained(&self, device: &Device) -> contrastive_core::Result<Box<dyn Method>> {
        self.method.build(self.train.seed, device)
    }

    fn fit(
        &self,
        source: Images,
        options: RunOptions<'_>,
    ) -> contrastive_core::Result<(Box<dyn Method>, Outcome)> {
        fit(self, source, options)
    }

    fn supervised(&self, backbone: BackboneConfig, classes: usize) -> Box<dyn AnyRun> {
        Box::new(SupervisedConfig::beside(self, backbone, classes))
    }
}
