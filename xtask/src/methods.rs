//! The methods that can be run by name. A new method has one line in the macro call below, and nothing else in this program.

use std::path::Path;

use anyhow::{Result, bail};
use candle_core::Device;
use contrastive_core::augment::EvalTransform;
use contrastive_core::experiment::{MethodConfig, RunConfig, RunCost, RunOptions, fit};
use contrastive_core::train::config::{layered, read, to_toml_string};
use contrastive_core::train::{Method, Outcome};
use contrastive_cpc::images as contrastive_cpc_images;

use crate::data::Images;

/// Name, crate, and what the names of its presets begin with where a crate has several methods. In the order in which
/// they were published.
macro_rules! methods {
    ($($name:literal => $module:ident, $prefix:literal;)*) => {
        /// The methods.
        pub const NAMES: &[&str] = &[$($name),*];

        /// The presets of a method, each with where it comes from. Names are without the version.
        pub fn presets(method: &str) -> Result<Vec<(&'static str, &'static str)>> {
            let (all, prefix): (&[(&str, &str)], &str) = match method {
                $($name => (&$module::recipe::PRESETS, $prefix),)*
                _ => return unknown(method),
            };
            let versions = NAMES.iter().filter_map(|name| prefix_of(name)).filter(|other| !other.is_empty());
            let others: Vec<&str> = versions.filter(|other| *other != prefix).collect();
            let own = all.iter().filter(|(name, _)| !others.iter().any(|other| name.starts_with(other)));
            Ok(own.filter_map(|&(name, about)| Some((name.strip_prefix(prefix)?, about))).collect())
        }

        /// What the names of the presets of a method begin with in its crate.
        pub fn prefix_of(method: &str) -> Option<&'static str> {
            match method {
                $($name => Some($prefix),)*
                _ => None,
            }
        }

        impl Plan {
            /// The preset of a method, overlaid by a TOML file and by `key=value` settings.
            pub fn new(method: &str, preset: &str, file: Option<&Path>, set: &[String]) -> Result<Self> {
                match method {
                    $($name => {
                        let known = presets(method)?;
                        if !known.iter().any(|(name, _)| *name == preset) {
                            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                            bail!("preset `{preset}` is unknown; known: {}", names.join(", "));
                        }
                        let run = $module::recipe::preset(&format!("{}{preset}", $prefix))?;
                        Self::checked(layered(&run, file, set)?)
                    })*
                    _ => unknown(method),
                }
            }

            /// The configuration that a run directory holds.
            pub fn read(method: &str, path: &Path) -> Result<Self> {
                match method {
                    $($name => Self::checked(like::<_>(read(path)?, $module::recipe::preset)),)*
                    _ => unknown(method),
                }
            }
        }
    };
}

methods! {
    "instdisc" => contrastive_instdisc, "";
    "cpc-images" => contrastive_cpc_images, "images-";
    "invaspread" => contrastive_invaspread, "";
    "cmc" => contrastive_cmc, "";
    "moco-v1" => contrastive_moco, "v1-";
    "simclr" => contrastive_simclr, "";
    "moco-v2" => contrastive_moco, "v2-";
    "byol" => contrastive_byol, "";
    "simclr-v2" => contrastive_simclr, "v2-";
    "swav" => contrastive_swav, "";
    "simsiam" => contrastive_simsiam, "";
    "moco-v3" => contrastive_moco, "v3-";
    "dino" => contrastive_dino, "";
}

/// A value of the type that a function gives: names the configuration of a crate without naming it.
fn like<T>(value: T, _model: fn(&str) -> contrastive_core::Result<T>) -> T {
    value
}

fn unknown<T>(method: &str) -> Result<T> {
    bail!("no method `{method}`; known: {}", NAMES.join(", "))
}

/// A checked run configuration whose method is known at run time only.
pub struct Plan {
    run: Box<dyn AnyRun>,
}

impl Plan {
    /// A plan of a configuration that fits together.
    pub fn checked<M: MethodConfig + 'static>(run: RunConfig<M>) -> Result<Self> {
        run.check()?;
        Ok(Self { run: Box::new(run) })
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
    /// The backbone in words.
    fn backbone(&self) -> String;
    /// Epochs of the run.
    fn epochs(&self) -> u64;
    /// Samples in a step.
    fn batch(&self) -> usize;
    /// What the run takes on so many samples.
    fn cost(&self, samples: u64) -> contrastive_core::Result<RunCost>;
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

    fn backbone(&self) -> String {
        self.method.backbone().to_string()
    }

    fn epochs(&self) -> u64 {
        self.train.epochs
    }

    fn batch(&self) -> usize {
        self.train.batch_size
    }

    fn cost(&self, samples: u64) -> contrastive_core::Result<RunCost> {
        RunConfig::cost(self, samples)
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
}
