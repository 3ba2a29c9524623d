//! Presets: the paper's settings and small ones.

use contrastive_core::Result;
use contrastive_core::experiment::{OptimConfig, unknown_preset};
use contrastive_core::optim::{AdamConfig, LrScaling, OptimizerConfig, Schedule};
use contrastive_core::train::TrainConfig;

use super::config::{SentenceConfig, TextConfig, TextRun};
use super::windows::WindowConfig;
use crate::speech::{CellKind, ContextConfig};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 3] = [
    (
        "paper",
        "the paper: 20,000 words of 620, sentences and GRU of 2400, 3 steps, batch 64, Adam 2e-4; 5 epochs of BookCorpus are about 1 million steps",
    ),
    ("small", "a fifth of the widths, for some books: minutes on two cores"),
    ("smoke", "the slice of prose that comes with the crate: seconds on two cores"),
];

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<TextRun> {
    match name {
        "paper" => Ok(paper()),
        "small" => Ok(small()),
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

fn paper() -> TextRun {
    TextRun {
        method: TextConfig {
            encoder: SentenceConfig {
                vocabulary: 20_000,
                embedding: 620,
                deviation: 1.0,
                kernel: 1,
                channels: 2400,
            },
            context: ContextConfig { cell: CellKind::Gru, width: 2400, layers: 1 },
            steps: 3,
        },
        // BookCorpus has 74 million sentences: 193,000 steps.
        train: TrainConfig { epochs: 5, batch_size: 64, log_every_steps: 50, ..TrainConfig::default() },
        optim: adam(2e-4),
        windows: WindowConfig { sentences: 6, words: 32 },
    }
}

fn small() -> TextRun {
    let base = paper();
    let encoder = SentenceConfig { embedding: 128, channels: 480, ..base.method.encoder };
    TextRun {
        method: TextConfig {
            encoder,
            context: ContextConfig { width: 480, ..base.method.context },
            ..base.method
        },
        train: TrainConfig { epochs: 10, log_every_steps: 20, ..base.train },
        optim: adam(5e-4),
        ..base
    }
}

fn smoke() -> TextRun {
    let base = small();
    let encoder = SentenceConfig { vocabulary: 2000, embedding: 48, channels: 128, ..base.method.encoder };
    TextRun {
        method: TextConfig {
            encoder,
            context: ContextConfig { width: 128, ..base.method.context },
            ..base.method
        },
        train: TrainConfig { epochs: 40, batch_size: 16, ..base.train },
        optim: adam(1e-3),
        ..base
    }
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
        assert_eq!(paper().method.backbone(), "words20000x620-conv2400-gru2400");
        let refused = preset("nonsense").expect_err("refused").to_string();
        assert!(PRESETS.iter().all(|(name, _)| refused.contains(name)), "{refused}");
        Ok(())
    }

    #[test]
    fn settings_that_do_not_fit_are_named() -> Result<()> {
        for key in [
            "method.steps=6",
            "method.steps=0",
            "method.encoder.vocabulary=1",
            "method.encoder.embedding=0",
            "method.encoder.deviation=0",
            "method.encoder.kernel=0",
            "method.encoder.channels=0",
            "method.context.width=0",
            "windows.sentences=1",
            "windows.words=0",
        ] {
            let run = layered(&smoke(), None, &[key.to_string()]);
            let refused = run.and_then(|run| run.check()).expect_err("refused").to_string();
            assert!(refused.contains(&key[..key.find('=').expect("=")]), "{key}: {refused}");
        }
        Ok(())
    }
}
