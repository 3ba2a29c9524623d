//! Presets.

use contrastive_core::Result;
use contrastive_core::experiment::{OptimConfig, unknown_preset};
use contrastive_core::optim::{LrScaling, OptimizerConfig, RmsPropConfig, RmsPropVariant, Schedule};
use contrastive_core::train::TrainConfig;

use super::config::{CpcConfig, EnvironmentConfig, Reduction, RlConfig, RlRun, Torso};
use crate::negatives::{NegativesConfig, Scheme};
use crate::objective::{ObjectiveConfig, Positions, Product};

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 3] = [
    (
        "paper",
        "the paper's unrolls of 100 steps with up to 30 predicted, IMPALA's settings for the rest; 1e9 frames",
    ),
    (
        "small",
        "a small world, a smaller epsilon, otherwise smoke's settings for 1,280,000 frames: two minutes on two cores",
    ),
    (
        "smoke",
        "16 environments, unrolls of 20, small frames, 256,000 frames: a quarter of a minute on two cores",
    ),
];

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RlRun> {
    match name {
        "paper" => Ok(paper()),
        "small" => Ok(small()),
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

fn paper() -> RlRun {
    let method = RlConfig {
        torso: Torso::Shallow,
        codes: 256,
        contexts: 256,
        // IMPALA's batch; the paper does not say how many there were.
        environments: 32,
        unroll: 100,
        updates_per_epoch: 125,
        discount: 0.99,
        reward_clip: 1.0,
        baseline_cost: 0.5,
        entropy_cost: 2.5e-4,
        reduction: Reduction::Sum,
        cpc: CpcConfig {
            enabled: true,
            weight: 0.1,
            objective: ObjectiveConfig {
                steps: 30,
                negatives: NegativesConfig { scheme: Scheme::MixedSpeaker, count: None },
                positions: Positions::All,
                product: Product::Sum,
            },
        },
    };
    RlRun {
        train: TrainConfig {
            // 78,125 updates of 12,800 frames with four frames a step.
            epochs: 625,
            batch_size: method.rows(),
            checkpoint_every_epochs: 5,
            grad_clip: Some(40.0),
            ..TrainConfig::default()
        },
        method,
        optim: OptimConfig {
            lr: 4.8e-4,
            lr_scaling: LrScaling::None,
            schedule: Schedule::Linear { end: 0.0 },
            optimizer: OptimizerConfig::RmsProp(RmsPropConfig {
                variant: RmsPropVariant::TensorFlow,
                decay: 0.99,
                eps: 0.1,
                ..RmsPropConfig::default()
            }),
            weight_decay_end: None,
        },
        environment: EnvironmentConfig {
            name: "seek_avoid".to_string(),
            height: 72,
            width: 96,
            first_seed: 0,
        },
    }
}

/// A few hundred updates, with a larger rate than a billion frames can stand.
fn smoke() -> RlRun {
    let mut run = paper().sized(16, 20);
    run.method.updates_per_epoch = 20;
    run.method.entropy_cost = 3e-3;
    run.method.cpc.objective.steps = 8;
    run.train.epochs = 10;
    run.optim.lr = 1e-3;
    (run.environment.height, run.environment.width) = (36, 48);
    run
}

/// In the small worlds rewards are met often enough that a thousand updates teach something. IMPALA's epsilon of 0.1 is
/// far above the squares of these gradients: with it the rate means much less, and returns grow half as far. With the
/// auxiliary loss at 0.1 exploring is learnt more slowly than without it; at 0.02 it is not.
fn small() -> RlRun {
    let mut run = smoke();
    run.method.cpc.weight = 0.02;
    run.train.epochs = 50;
    run.environment.name = "seek_avoid_small".to_string();
    run.optim.optimizer = OptimizerConfig::RmsProp(RmsPropConfig {
        variant: RmsPropVariant::TensorFlow,
        decay: 0.99,
        eps: 1e-3,
        ..RmsPropConfig::default()
    });
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
    fn settings_that_do_not_fit_are_named() {
        let refused = |set: &str| {
            let run = layered(&smoke(), None, &[set.to_string()]);
            run.and_then(|run| run.check()).expect_err("refused").to_string()
        };
        for set in [
            "method.cpc.objective.steps=20",
            "method.unroll=0",
            "method.discount=1.5",
            "method.cpc.weight=-1",
            "train.batch_size=7",
            "environment.height=19",
            "method.torso=wide",
        ] {
            let key = set.split('=').next().unwrap_or_default();
            assert!(refused(set).contains(key), "{set}");
        }
    }
}
