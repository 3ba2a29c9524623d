//! Settings of the actor-critic and its auxiliary loss.

use contrastive_core::experiment::{OptimConfig, config_hash};
use contrastive_core::train::TrainConfig;
use contrastive_core::{Error, Result};
use contrastive_scenes::Shape;
use serde::{Deserialize, Serialize};

use crate::objective::ObjectiveConfig;

/// The convolutions of the encoder; a fully connected layer with ReLU follows either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Torso {
    /// IMPALA's shallow one: 16 of 8×8 with stride 4, 32 of 4×4 with stride 2, a ReLU behind each.
    Shallow,
    /// IMPALA's deep one: for 16, 32 and 32 channels a 3×3 convolution, a 3×3 max pool with stride 2, and two residual
    /// blocks of ReLU, 3×3, ReLU, 3×3.
    Deep,
}

/// How the loss is taken over the batch. Over time it is always a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// A sum over environments too, as in IMPALA's code: gradients, their clipping and the optimiser's epsilon depend on
    /// how many there are.
    Sum,
    /// A mean over environments.
    Mean,
}

/// The auxiliary loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpcConfig {
    /// Whether it is added.
    pub enabled: bool,
    /// Its weight beside the loss of A2C, at least 0. What is weighted is the mean InfoNCE over predictions and steps,
    /// times as many steps of environments as the loss of A2C sums: the weight means the same for any unroll and batch.
    /// The paper does not give it.
    pub weight: f64,
    /// What is predicted and told apart. K (the paper: up to 30) must be below the unroll.
    pub objective: ObjectiveConfig,
}

/// The networks, the loss and how long an update's experience is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlConfig {
    /// The encoder's convolutions.
    pub torso: Torso,
    /// Width of the encoder's output z.
    pub codes: usize,
    /// Width of the LSTM's output c.
    pub contexts: usize,
    /// Environments in step with each other.
    pub environments: usize,
    /// Steps of every environment between two updates.
    pub unroll: usize,
    /// Updates that the loop calls an epoch.
    pub updates_per_epoch: u64,
    /// γ, in `[0, 1]`.
    pub discount: f64,
    /// Rewards are cut at plus and minus this for learning.
    pub reward_clip: f64,
    /// Factor of half the squared error of the value.
    pub baseline_cost: f64,
    /// Factor of the negative entropy of the policy.
    pub entropy_cost: f64,
    /// How losses are taken over environments.
    pub reduction: Reduction,
    /// The auxiliary loss.
    pub cpc: CpcConfig,
}

impl RlConfig {
    /// Steps of all environments in one update.
    pub fn rows(&self) -> usize {
        self.environments * self.unroll
    }

    /// Checks the ranges. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self, at: &str) -> Result<()> {
        let sizes = [
            ("codes", self.codes),
            ("contexts", self.contexts),
            ("environments", self.environments),
            ("unroll", self.unroll),
            ("updates_per_epoch", self.updates_per_epoch as usize),
        ];
        for (key, value) in sizes {
            if !(1..=1 << 20).contains(&value) {
                return Err(Error::config(
                    format!("{at}.{key}"),
                    format!("must be from 1 to {}, is {value}", 1 << 20),
                ));
            }
        }
        if !(0.0..=1.0).contains(&self.discount) {
            return Err(Error::config(
                format!("{at}.discount"),
                format!("must be in [0, 1], is {}", self.discount),
            ));
        }
        let costs = [
            ("reward_clip", self.reward_clip),
            ("baseline_cost", self.baseline_cost),
            ("entropy_cost", self.entropy_cost),
            ("cpc.weight", self.cpc.weight),
        ];
        for (key, value) in costs {
            if !(value >= 0.0 && value.is_finite()) {
                let reason = format!("must be at least 0 and finite, is {value}");
                return Err(Error::config(format!("{at}.{key}"), reason));
            }
        }
        if self.cpc.enabled {
            self.cpc.objective.check(&format!("{at}.cpc.objective"), self.unroll)
        } else {
            Ok(())
        }
    }

    /// The networks in a word, for manifests: `impala-shallow-256-lstm256`.
    pub fn backbone(&self) -> String {
        let torso = match self.torso {
            Torso::Shallow => "shallow",
            Torso::Deep => "deep",
        };
        format!("impala-{torso}-{}-lstm{}", self.codes, self.contexts)
    }
}

/// What is played.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentConfig {
    /// A task of `contrastive_scenes` (`seek_avoid`), or `gym:` and the name of an environment of Gymnasium
    /// (`gym:CartPole-v1`).
    pub name: String,
    /// Rows of a frame.
    pub height: usize,
    /// Columns of a frame.
    pub width: usize,
    /// Environment `i` has this seed plus `i`.
    pub first_seed: u64,
}

impl EnvironmentConfig {
    /// Height and width.
    pub fn shape(&self) -> Shape {
        Shape { height: self.height, width: self.width }
    }
}

/// Everything that decides the result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlRun {
    /// The networks and the loss.
    pub method: RlConfig,
    /// The loop. Its batch size is [`RlConfig::rows`].
    pub train: TrainConfig,
    /// The optimiser.
    pub optim: OptimConfig,
    /// What is played.
    pub environment: EnvironmentConfig,
}

impl RlRun {
    /// Checks every setting and how they fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self) -> Result<()> {
        self.method.check("method")?;
        self.train.check("train")?;
        self.optim.check("optim")?;
        let rows = self.method.rows();
        if self.train.batch_size != rows {
            let reason =
                format!("must be method.environments x method.unroll = {rows}, is {}", self.train.batch_size);
            return Err(Error::config("train.batch_size", reason));
        }
        for (key, side) in [("height", self.environment.height), ("width", self.environment.width)] {
            if !(20..=4096).contains(&side) {
                let reason = format!("must be from 20 (what the convolutions need) to 4096, is {side}");
                return Err(Error::config(format!("environment.{key}"), reason));
            }
        }
        if i64::try_from(self.environment.first_seed).is_err() {
            return Err(Error::config("environment.first_seed", format!("must be at most {}", i64::MAX)));
        }
        Ok(())
    }

    /// The same with other numbers of environments and steps, and the batch that follows.
    #[must_use]
    pub fn sized(mut self, environments: usize, unroll: usize) -> Self {
        (self.method.environments, self.method.unroll) = (environments, unroll);
        self.train.batch_size = self.method.rows();
        self
    }

    /// A hash of the configuration, the same for equal settings.
    ///
    /// # Errors
    /// A configuration that does not serialise.
    pub fn hash(&self) -> Result<String> {
        config_hash(self)
    }
}
