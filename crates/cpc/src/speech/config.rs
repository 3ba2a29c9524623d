//! Settings of CPC on speech.

use contrastive_core::experiment::{OptimConfig, config_hash};
use contrastive_core::optim::ParamGroups;
use contrastive_core::train::TrainConfig;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::windows::WindowConfig;
use crate::objective::ObjectiveConfig;

/// Samples in a second, everywhere in this module.
pub const RATE: u32 = 16_000;

/// What follows each convolution, before its ReLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Nothing (the paper names none, Greedy InfoMax has none).
    None,
    /// Batch norm; convolutions then have no bias (Lai's implementation, CPC_audio's `batchNorm`).
    Batch,
    /// Each frame over its channels, with the unbiased variance (CPC_audio's default, which it calls `layerNorm`).
    Channel,
}

/// The encoder: convolutions with ReLU, from a wave form to one vector for every hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// Channels of every layer.
    pub channels: usize,
    /// Length of each layer's kernel.
    pub kernels: Vec<usize>,
    /// Stride of each layer.
    pub strides: Vec<usize>,
    /// Zeros on both sides of each layer's input.
    pub paddings: Vec<usize>,
    /// What follows each convolution.
    pub norm: Norm,
}

impl EncoderConfig {
    /// The paper's layers with the padding that published implementations give them: 20480 samples are 128 frames.
    pub fn paper(channels: usize) -> Self {
        Self {
            channels,
            kernels: vec![10, 8, 4, 4, 4],
            strides: vec![5, 4, 2, 2, 2],
            paddings: vec![3, 2, 1, 1, 1],
            norm: Norm::None,
        }
    }

    /// Greedy InfoMax's padding: also 128 frames, which lie 133 samples later.
    pub fn greedy_infomax(channels: usize) -> Self {
        Self { paddings: vec![2, 2, 2, 2, 1], ..Self::paper(channels) }
    }

    /// Samples from one frame to the next.
    pub fn hop(&self) -> usize {
        self.strides.iter().product()
    }

    /// Samples that a frame is made from.
    pub fn receptive_field(&self) -> usize {
        let mut stride = 1;
        let mut field = 1;
        for (kernel, s) in self.kernels.iter().zip(&self.strides) {
            field += (kernel - 1) * stride;
            stride *= s;
        }
        field
    }

    /// Zeros before the first sample that the first frame sees.
    pub fn lead(&self) -> usize {
        let mut stride = 1;
        let mut lead = 0;
        for (padding, s) in self.paddings.iter().zip(&self.strides) {
            lead += padding * stride;
            stride *= s;
        }
        lead
    }

    /// The sample in the middle of what frame `t` sees; beyond the recording's ends at its ends.
    pub fn centre(&self, t: usize) -> usize {
        (t * self.hop() + self.receptive_field() / 2).saturating_sub(self.lead())
    }

    /// The frames of so many samples.
    pub fn frames(&self, samples: usize) -> usize {
        let mut length = samples;
        for ((kernel, stride), padding) in self.kernels.iter().zip(&self.strides).zip(&self.paddings) {
            length = match (length + 2 * padding).checked_sub(*kernel) {
                Some(room) => room / stride + 1,
                None => return 0,
            };
        }
        length
    }

    fn check(&self, at: &str) -> Result<()> {
        let layers = self.kernels.len();
        let least = if self.norm == Norm::Channel { 2 } else { 1 };
        if self.channels < least {
            return Err(Error::config(format!("{at}.channels"), format!("must be at least {least}")));
        }
        for (key, list) in [("kernels", &self.kernels), ("strides", &self.strides)] {
            if layers == 0 || list.len() != layers || list.iter().any(|x| !(1..=1024).contains(x)) {
                let reason =
                    format!("needs {layers} numbers (one for each kernel, at least one) from 1 to 1024");
                return Err(Error::config(format!("{at}.{key}"), reason));
            }
        }
        if self.strides.iter().zip(&self.kernels).any(|(s, k)| s > k) {
            let reason = "a stride beyond its kernel leaves samples out";
            return Err(Error::config(format!("{at}.strides"), reason));
        }
        if self.paddings.len() != layers || self.paddings.iter().zip(&self.kernels).any(|(p, k)| p >= k) {
            let reason = format!("needs {layers} numbers, each below its kernel");
            return Err(Error::config(format!("{at}.paddings"), reason));
        }
        Ok(())
    }
}

/// A kind of recurrent cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CellKind {
    /// Gated recurrent unit (the paper).
    Gru,
    /// Long short-term memory (CPC_audio's default).
    Lstm,
}

/// The context network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextConfig {
    /// The cell.
    pub cell: CellKind,
    /// Width of the hidden state.
    pub width: usize,
    /// Layers on top of each other.
    pub layers: usize,
}

/// The networks and their task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechConfig {
    /// g_enc.
    pub encoder: EncoderConfig,
    /// g_ar.
    pub context: ContextConfig,
    /// What is predicted and told apart.
    pub objective: ObjectiveConfig,
}

impl SpeechConfig {
    /// Checks the networks' settings. `at` is where they stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check_networks(&self, at: &str) -> Result<()> {
        self.encoder.check(&format!("{at}.encoder"))?;
        for (key, value) in [("width", self.context.width), ("layers", self.context.layers)] {
            if value == 0 {
                return Err(Error::config(format!("{at}.context.{key}"), "must be at least 1"));
            }
        }
        Ok(())
    }

    /// The networks in a word, for manifests: `conv512x5-gru256`.
    pub fn backbone(&self) -> String {
        let cell = match self.context.cell {
            CellKind::Gru => "gru",
            CellKind::Lstm => "lstm",
        };
        let layers =
            if self.context.layers == 1 { String::new() } else { format!("x{}", self.context.layers) };
        let (channels, convolutions) = (self.encoder.channels, self.encoder.kernels.len());
        format!("conv{channels}x{convolutions}-{cell}{}{layers}", self.context.width)
    }
}

/// Everything that decides the result of a run on speech.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechRun {
    /// The networks and their task.
    pub method: SpeechConfig,
    /// The loop: epochs, batch, seed, checkpoints.
    pub train: TrainConfig,
    /// The optimiser.
    pub optim: OptimConfig,
    /// How recordings become windows.
    pub windows: WindowConfig,
}

impl SpeechRun {
    /// Checks every setting and how they fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self) -> Result<()> {
        self.method.check_networks("method")?;
        self.windows.check("windows", &self.method.encoder)?;
        self.method.objective.check("method.objective", self.method.encoder.frames(self.windows.samples))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_paper() {
        let paper = EncoderConfig::paper(512);
        assert_eq!((paper.hop(), paper.receptive_field(), paper.lead()), (160, 465, 153));
        assert_eq!((paper.frames(20_480), paper.frames(16_000), paper.frames(79)), (128, 100, 0));
        // The middle of the 10 ms that a frame stands for.
        assert_eq!((paper.centre(0), paper.centre(5)), (79, 879));
        let greedy = EncoderConfig::greedy_infomax(512);
        assert_eq!((greedy.frames(20_480), greedy.lead(), greedy.centre(1)), (128, 212, 180));
        let bare = EncoderConfig { paddings: vec![0; 5], ..paper };
        assert_eq!((bare.frames(464), bare.frames(465), bare.frames(20_480)), (0, 1, 126));
    }
}
