//! Table 1's comparison: probes on trained contexts, on MFCC and on the contexts of a fresh network.

use candle_core::Device;
use contrastive_core::Result;

use super::config::SpeechRun;
use super::method::SpeechCpc;
use super::mfcc::{Mfcc, MfccConfig};
use super::model::SpeechModel;
use super::probes::{Contexts, FrameEncoder, Parts, ProbeConfig, Task};

/// Frames that a linear probe sees of a collection at most.
const MOST_FRAMES: f64 = 200_000.0;

/// What a probe is set on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Trained contexts.
    Cpc,
    /// 13 MFCC: the paper says no more than that it takes MFCC.
    Mfcc,
    /// The same with first and second differences, which look 40 ms ahead where contexts look 16 ms.
    MfccDifferences,
    /// Contexts of the same networks with fresh parameters.
    Random,
}

impl Input {
    /// All, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Random, Self::Mfcc, Self::MfccDifferences, Self::Cpc];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpc => "cpc",
            Self::Mfcc => "mfcc",
            Self::MfccDifferences => "mfcc with differences",
            Self::Random => "random",
        }
    }
}

/// A probe of the comparison with its version: a change of what it does is a new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// What it is asked.
    pub task: Task,
    /// Whether it has a hidden layer of 256 (for phones: the paper's 72.5 %).
    pub hidden: bool,
}

impl Probe {
    /// A linear probe.
    pub fn linear(task: Task) -> Self {
        Self { task, hidden: false }
    }

    /// `phones-linear-v1`, `phones-hidden256-v1`, `speakers-by-mean-linear-v1`, …
    pub fn name(self) -> String {
        format!("{}-{}-v1", self.task.name(), if self.hidden { "hidden256" } else { "linear" })
    }

    /// 20 epochs, or 200 on means (there are few), 8 with a hidden layer; of more than 200,000 frames every so many.
    fn config(self, seconds: f64) -> ProbeConfig {
        let mean = matches!(self.task, Task::SpeakersByMean | Task::WordsByMean);
        let epochs = match (mean, self.hidden) {
            (true, _) => 200,
            (false, true) => 8,
            (false, false) => 20,
        };
        let every = if mean { 1 } else { (100.0 * seconds / MOST_FRAMES).ceil().max(1.0) as usize };
        ProbeConfig { epochs, every, hidden: self.hidden.then_some(256), seed: 0 }
    }
}

/// One number of the comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// What the probe was set on.
    pub input: Input,
    /// The probe.
    pub probe: Probe,
    /// The share of the test part that it got right.
    pub accuracy: f64,
}

/// The accuracy of a probe on one input. `model` is the trained or fresh model; MFCC take none.
///
/// # Errors
/// As [`Task::accuracy`].
fn accuracy(run: &SpeechRun, input: Input, model: &SpeechModel, probe: Probe, parts: &Parts) -> Result<f64> {
    let contexts = Contexts { model, scale: run.windows.scale };
    let differences = input == Input::MfccDifferences;
    let mfcc = Mfcc::new(MfccConfig { differences, ..MfccConfig::default() })?;
    let encoder: &dyn FrameEncoder = match input {
        Input::Mfcc | Input::MfccDifferences => &mfcc,
        Input::Cpc | Input::Random => &contexts,
    };
    let seconds = parts.train.seconds() + parts.test.seconds();
    probe.task.accuracy(encoder, parts, &probe.config(seconds))
}

/// Every probe on every input.
///
/// # Errors
/// As [`Task::accuracy`].
pub fn compare(
    run: &SpeechRun,
    method: &SpeechCpc,
    inputs: &[Input],
    probes: &[Probe],
    parts: &Parts,
) -> Result<Vec<Score>> {
    let fresh = SpeechCpc::new(run.method.clone(), run.train.seed, &Device::Cpu)?;
    let mut scores = Vec::with_capacity(inputs.len() * probes.len());
    for &input in inputs {
        let model = if input == Input::Random { fresh.model() } else { method.model() };
        for &probe in probes {
            scores.push(Score { input, probe, accuracy: accuracy(run, input, model, probe, parts)? });
        }
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::probes::split_recordings;
    use crate::speech::{recipe, synthetic};

    #[test]
    fn every_probe_meets_every_input() -> Result<()> {
        let mut run = recipe::preset("smoke")?;
        (run.method.encoder.channels, run.method.context.width) = (8, 8);
        let method = SpeechCpc::new(run.method.clone(), 3, &Device::Cpu)?;
        let parts = split_recordings(&synthetic::voices(3, 4, 0.3, 1)?, 2)?;
        let probes = [Probe::linear(Task::Speakers), Probe::linear(Task::SpeakersByMean)];
        let scores = compare(&run, &method, &Input::ALL, &probes, &parts)?;
        let names: Vec<String> =
            scores.iter().map(|s| format!("{} {}", s.input.name(), s.probe.name())).collect();
        assert_eq!(names[0], "random speakers-linear-v1");
        assert_eq!(names[7], "cpc speakers-by-mean-linear-v1");
        assert!(scores.len() == 8 && scores.iter().all(|s| (0.0..=1.0).contains(&s.accuracy)));
        let hidden = Probe { task: Task::Phones, hidden: true };
        assert_eq!((hidden.name().as_str(), hidden.config(1e4).every), ("phones-hidden256-v1", 5));
        Ok(())
    }
}
