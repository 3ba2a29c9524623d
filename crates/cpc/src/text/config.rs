//! Settings of CPC on text.

use contrastive_core::experiment::{OptimConfig, config_hash};
use contrastive_core::optim::ParamGroups;
use contrastive_core::train::TrainConfig;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::windows::WindowConfig;
use crate::speech::{CellKind, ContextConfig};

/// The sentence encoder: word vectors, a convolution over words, ReLU, the mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentenceConfig {
    /// Words that have a vector, the unknown one among them. A smaller vocabulary leaves the last ones unused.
    pub vocabulary: usize,
    /// E, the width of word vectors.
    pub embedding: usize,
    /// The standard deviation of fresh word vectors (normal; PyTorch's is 1).
    pub deviation: f64,
    /// Words under the convolution's kernel; zeros stand beyond a sentence's ends. The paper does not name it.
    pub kernel: usize,
    /// C, the width of a sentence's vector.
    pub channels: usize,
}

/// The networks and their task.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// g_enc.
    pub encoder: SentenceConfig,
    /// g_ar.
    pub context: ContextConfig,
    /// K, the sentences ahead that are predicted.
    pub steps: usize,
}

impl TextConfig {
    /// Checks the networks' settings. `at` is where they stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check_networks(&self, at: &str) -> Result<()> {
        let SentenceConfig { vocabulary, embedding, deviation, kernel, channels } = self.encoder;
        // Views hold numbers of words in single precision.
        if !(2..=1 << 24).contains(&vocabulary) {
            let reason = format!("must be from 2 to {}", 1 << 24);
            return Err(Error::config(format!("{at}.encoder.vocabulary"), reason));
        }
        if !(deviation > 0.0 && deviation.is_finite()) {
            return Err(Error::config(format!("{at}.encoder.deviation"), "must be above 0 and finite"));
        }
        if !(1..=64).contains(&kernel) {
            return Err(Error::config(format!("{at}.encoder.kernel"), "must be from 1 to 64"));
        }
        for (key, value) in [
            ("encoder.embedding", embedding),
            ("encoder.channels", channels),
            ("context.width", self.context.width),
            ("context.layers", self.context.layers),
        ] {
            if value == 0 {
                return Err(Error::config(format!("{at}.{key}"), "must be at least 1"));
            }
        }
        Ok(())
    }

    /// The networks in a word, for manifests: `words20000x620-conv2400-gru2400`.
    pub fn backbone(&self) -> String {
        let cell = match self.context.cell {
            CellKind::Gru => "gru",
            CellKind::Lstm => "lstm",
        };
        let layers =
            if self.context.layers == 1 { String::new() } else { format!("x{}", self.context.layers) };
        let SentenceConfig { vocabulary, embedding, kernel, channels, .. } = self.encoder;
        let kernel = if kernel == 1 { String::new() } else { format!("k{kernel}") };
        format!("words{vocabulary}x{embedding}-conv{channels}{kernel}-{cell}{}{layers}", self.context.width)
    }
}

/// Everything that decides the result of a run on text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRun {
    /// The networks and their task.
    pub method: TextConfig,
    /// The loop: epochs, batch, seed, checkpoints.
    pub train: TrainConfig,
    /// The optimiser.
    pub optim: OptimConfig,
    /// How a corpus becomes windows.
    pub windows: WindowConfig,
}

impl TextRun {
    /// Checks every setting and how they fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self) -> Result<()> {
        self.method.check_networks("method")?;
        self.windows.check("windows")?;
        let (steps, length) = (self.method.steps, self.windows.sentences);
        if steps == 0 || steps >= length {
            let reason = format!("must be from 1 to {} for windows of {length} sentences", length - 1);
            return Err(Error::config("method.steps", reason));
        }
        self.train.check("train")?;
        self.optim.check("optim")
    }

    /// A hash of the configuration, the same for equal settings.
    ///
    /// # Errors
    /// A configuration that does not serialise.
    pub fn hash(&self) -> Result<String> {
        config_hash(self)
    }

    /// Parameters that are treated differently: none.
    pub fn groups(&self) -> ParamGroups {
        ParamGroups::new()
    }
}
