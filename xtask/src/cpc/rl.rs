//! Figure 6.

use anyhow::Result;
use contrastive_core::data::Batches;
use contrastive_core::dist::single;
use contrastive_cpc::rl::run::{Updates, environments, fit};
use contrastive_cpc::rl::scenes::SMALL_NAMES;
use contrastive_cpc::rl::{RlRun, recipe};

use super::figures::Returns;
use super::{About, Measured, Session};

/// Parts that learning curves are cut into.
const PARTS: usize = 16;

/// The mean return of the episodes that end in the last quarter of a run.
pub const PROTOCOL: &str = "return-last-quarter-v1";

/// The actor-critic with and without CPC: one maze in tier `smoke`, the five small ones over five seeds in tier
/// `small`; of these only the one that the call sets `environment.name` to.
pub fn figure6(session: &Session) -> Result<()> {
    let (preset, tasks, seeds): (_, &[&str], &[u64]) = if session.small {
        ("small", &SMALL_NAMES, &[0, 1, 2, 3, 4])
    } else {
        ("smoke", &["seek_avoid"], &[0, 1])
    };
    let preset_run = recipe::preset(preset)?;
    for task in asked(session, &preset_run, tasks)? {
        for seed in session.seeds(seeds) {
            for enabled in [false, true] {
                let mut base = preset_run.clone();
                base.environment.name = task.clone();
                base.method.cpc.enabled = enabled;
                // Each seed plays in mazes of its own.
                base.environment.first_seed = seed * base.method.environments as u64;
                let run: RlRun = session.configured(&base, base.train.epochs, seed)?;
                let method = if enabled { "a2c+cpc" } else { "a2c" };
                let name = format!("cpc-rl-{task}-{}", method.replace('+', "-"));
                let (agent, seconds) = session.train(&name, seed, |options| fit(&run, options))?;
                let updates = run.train.epochs * run.method.updates_per_epoch;
                let digits = |x: f64| (x * 1e3).round() / 1e3;
                let curve = agent.curve(updates, PARTS);
                let points = curve.points.iter().map(|p| (p.frames as f64, digits(p.mean))).collect();
                let returns = Returns { task: task.clone(), method: method.to_string(), seed, points };
                session.draw(|figures| figures.add_returns(returns))?;
                let about = About {
                    method: method.to_string(),
                    recipe: preset.to_string(),
                    dataset: task.clone(),
                    data_hash: Updates::new(&run, &environments(&run, &single())?).identity().1,
                    config_hash: run.hash()?,
                    seed,
                    seconds,
                };
                // No episode need have ended in a short run.
                let last = agent.curve(updates, 4).points.last().map(|point| Measured {
                    protocol: PROTOCOL.to_string(),
                    metric: "return",
                    unit: "reward",
                    value: point.mean,
                });
                session.record(&about, &last.into_iter().collect::<Vec<_>>())?;
            }
        }
    }
    Ok(())
}

/// The tasks' names under the call's settings, each once.
fn asked(session: &Session, preset: &RlRun, tasks: &[&str]) -> Result<Vec<String>> {
    let name = |task: &&str| -> Result<String> {
        let mut base = preset.clone();
        base.environment.name = (*task).to_string();
        let run: RlRun = session.configured(&base, base.train.epochs, base.train.seed)?;
        Ok(run.environment.name)
    };
    let mut names: Vec<String> = tasks.iter().map(name).collect::<Result<_>>()?;
    names.dedup();
    Ok(names)
}
