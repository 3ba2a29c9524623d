//! Presets: the paper's settings, those of published implementations, and small ones.

use contrastive_core::Result;
use contrastive_core::experiment::{OptimConfig, unknown_preset};
use contrastive_core::optim::{AdamConfig, LrScaling, OptimizerConfig, Schedule};
use contrastive_core::train::TrainConfig;

use super::config::{CellKind, ContextConfig, EncoderConfig, Norm, SpeechConfig, SpeechRun};
use super::windows::{Scale, WindowConfig};
use crate::negatives::{NegativesConfig, Scheme};
use crate::objective::{ObjectiveConfig, Positions, Product};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 10] = [
    (
        "paper",
        "the paper: 12 steps, GRU of 256, mixed speakers, batch 8, Adam 2e-4; 86 epochs are 300,000 steps",
    ),
    ("paper-figure3", "the same with the 20 steps of the paper's figure 3"),
    (
        "paper-same-speaker",
        "the same with negatives of the same speaker (table 2), in batches of one speaker",
    ),
    (
        "lai",
        "C.-I. Lai's implementation: batch norm, one time for a batch, the other windows at the same time",
    ),
    ("greedy-infomax", "Greedy InfoMax's CPC: 10 negatives of all frames, its padding, 1000 epochs"),
    ("cpc-audio", "CPC_audio with batch norm and linear predictors: LSTM, 128 negatives, means for products"),
    ("small", "a quarter of the channels on collections of minutes: minutes on two cores"),
    ("small-timit", "the same in windows of 64 frames, for the 120 utterances of 12 of TIMIT's speakers"),
    ("small-digits", "the same for spoken digits of many speakers"),
    (
        "smoke",
        "the six utterances that come with the crate, or synthetic voices: about a minute on two cores",
    ),
];

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<SpeechRun> {
    match name {
        "paper" => Ok(paper()),
        "paper-figure3" => Ok(with_objective(paper(), |o| o.steps = 20)),
        "paper-same-speaker" => Ok(paper_same_speaker()),
        "lai" => Ok(lai()),
        "greedy-infomax" => Ok(greedy_infomax()),
        "cpc-audio" => Ok(cpc_audio()),
        "small" => Ok(small()),
        "small-timit" => Ok(small_for(TIMIT_EPOCHS)),
        "small-digits" => Ok(small_for(DIGITS_EPOCHS)),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

fn adam(lr: f64) -> OptimConfig {
    OptimConfig {
        lr,
        lr_scaling: LrScaling::None,
        schedule: Schedule::Constant {},
        optimizer: OptimizerConfig::Adam(AdamConfig::default()),
        weight_decay_end: None,
    }
}

fn with_objective(run: SpeechRun, change: impl FnOnce(&mut ObjectiveConfig)) -> SpeechRun {
    let mut run = run;
    change(&mut run.method.objective);
    run
}

fn paper() -> SpeechRun {
    SpeechRun {
        method: SpeechConfig {
            encoder: EncoderConfig::paper(512),
            context: ContextConfig { cell: CellKind::Gru, width: 256, layers: 1 },
            objective: ObjectiveConfig {
                steps: 12,
                negatives: NegativesConfig { scheme: Scheme::MixedSpeaker, count: None },
                positions: Positions::All,
                product: Product::Sum,
            },
        },
        // 28,000 recordings make 3,500 steps.
        train: TrainConfig { epochs: 86, batch_size: 8, log_every_steps: 50, ..TrainConfig::default() },
        optim: adam(2e-4),
        windows: WindowConfig { samples: 20_480, scale: Scale::AsIs {}, one_speaker_batches: false },
    }
}

fn paper_same_speaker() -> SpeechRun {
    let mut run = with_objective(paper(), |o| o.negatives.scheme = Scheme::SameSpeaker);
    run.windows.one_speaker_batches = true;
    run
}

fn lai() -> SpeechRun {
    let mut run = with_objective(paper(), |o| {
        o.negatives.scheme = Scheme::SameTime;
        o.positions = Positions::One;
    });
    run.method.encoder.norm = Norm::Batch;
    run.train.batch_size = 64;
    run.train.epochs = 60;
    run
}

fn greedy_infomax() -> SpeechRun {
    let mut run = with_objective(paper(), |o| {
        o.negatives = NegativesConfig { scheme: Scheme::AllFrames, count: Some(10) };
    });
    run.method.encoder = EncoderConfig::greedy_infomax(512);
    run.train.epochs = 1000;
    run.windows.scale = Scale::Fixed { mean: -0.000_68, deviation: 0.063 };
    run
}

fn cpc_audio() -> SpeechRun {
    let mut run = with_objective(paper(), |o| {
        o.negatives = NegativesConfig { scheme: Scheme::SameSpeaker, count: Some(128) };
        o.product = Product::Mean;
    });
    run.method.encoder = EncoderConfig { channels: 256, norm: Norm::Batch, ..run.method.encoder };
    run.method.context.cell = CellKind::Lstm;
    run.train = TrainConfig { epochs: 200, ..run.train };
    run.windows.one_speaker_batches = true;
    run
}

/// Collections of minutes: fewer channels, a larger rate, recordings brought to one level.
fn small() -> SpeechRun {
    let base = paper();
    SpeechRun {
        method: SpeechConfig {
            encoder: EncoderConfig::paper(128),
            context: ContextConfig { width: 128, ..base.method.context },
            ..base.method
        },
        train: TrainConfig { epochs: 60, log_every_steps: 20, checkpoint_every_epochs: 10, ..base.train },
        optim: adam(1e-3),
        windows: WindowConfig { scale: Scale::PerRecording {}, ..base.windows },
    }
}

/// 6 minutes of speech: 15 updates an epoch.
const TIMIT_EPOCHS: u64 = 300;

/// 23 minutes of speech: 116 updates an epoch.
const DIGITS_EPOCHS: u64 = 30;

/// Windows of 0.64 s take a third of the time for an update that those of 1.28 s take.
fn small_for(epochs: u64) -> SpeechRun {
    let mut run = small();
    run.windows.samples = 10_240;
    run.train = TrainConfig { epochs, checkpoint_every_epochs: 10, ..run.train };
    run.optim.schedule = Schedule::WarmupCosine { warmup_epochs: 1.0, end: 0.0, start: 0.0 };
    run
}

fn smoke() -> SpeechRun {
    let base = small();
    let mut run = with_objective(base, |o| o.steps = 6);
    run.method.encoder.channels = 64;
    run.method.context.width = 64;
    run.train = TrainConfig { epochs: 500, checkpoint_every_epochs: 100, ..run.train };
    run.windows.samples = 10_240;
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use contrastive_core::train::config::layered;

    #[test]
    fn every_preset_is_valid_and_survives_toml() -> Result<()> {
        for (name, _) in PRESETS {
            let run = preset(name)?;
            run.check()?;
            assert_eq!(run, layered(&run, None, &[])?, "{name}");
        }
        let refused = preset("nonsense").expect_err("refused").to_string();
        assert!(PRESETS.iter().all(|(name, _)| refused.contains(name)), "{refused}");
        Ok(())
    }

    #[test]
    fn settings_that_do_not_fit_are_named() -> Result<()> {
        let refused = |set: &str| {
            let run = layered(&smoke(), None, &[set.to_string()]);
            run.and_then(|run| run.check()).expect_err("refused").to_string()
        };
        assert!(refused("method.objective.steps=64").contains("method.objective.steps"));
        assert!(refused("method.encoder.strides=[5,4]").contains("method.encoder.strides"));
        assert!(refused("method.encoder.paddings=[3,2,1,1,9]").contains("method.encoder.paddings"));
        assert!(refused("method.context.width=0").contains("method.context.width"));
        assert!(refused("windows.samples=200").contains("windows.samples"));
        assert!(refused("method.objective.negatives.count=0").contains("method.objective.negatives.count"));
        assert!(refused("method.objective.negatives.scheme=none").contains("scheme"));
        Ok(())
    }
}
