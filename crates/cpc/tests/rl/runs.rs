//! Whole runs: resume, learning.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use contrastive_core::dist::{Comm, run_in_process};
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::{EpochRecord, Method, Notes, Observer, Outcome, StepRecord};
use contrastive_cpc::rl::run::{fit, fit_in};
use contrastive_cpc::rl::{ActorCritic, Episode, RlRun};

use super::{colours, colours_from, tiny};

/// Raises the stop flag after a step; keeps the mean of a term in every epoch.
#[derive(Default)]
struct Watch {
    stop_at: Option<u64>,
    stop: Arc<AtomicBool>,
    warnings: Vec<String>,
    cpc: Vec<f64>,
}

impl Observer for Watch {
    fn on_step(&mut self, record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        if Some(record.progress.step) == self.stop_at {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_epoch(
        &mut self,
        record: &EpochRecord<'_>,
        _: &dyn Method,
        _: &mut Notes,
    ) -> contrastive_core::Result<()> {
        self.cpc.extend(record.terms.iter().find(|(name, _)| name == "cpc").map(|(_, value)| *value));
        Ok(())
    }

    fn on_warning(&mut self, _step: u64, text: &str) {
        self.warnings.push(text.to_string());
    }
}

fn train(run: &RlRun, dir: &Path, stop_at: Option<u64>) -> Result<(ActorCritic, Outcome, Watch)> {
    let mut watch = Watch { stop_at, ..Watch::default() };
    let stop = watch.stop.clone();
    let options = RunOptions { resume: true, stop, observers: vec![&mut watch], ..RunOptions::new(dir) };
    let (method, outcome) = fit_in(run, colours(run.method.environments, 1.0)?, options)?;
    Ok((method, outcome, watch))
}

fn final_bytes(dir: &Path) -> Result<[Vec<u8>; 2]> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir.join("checkpoints"))?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    names.sort();
    let last = names.last().ok_or_else(|| anyhow!("no checkpoint"))?;
    Ok([std::fs::read(last)?, std::fs::read(dir.join("encoder.safetensors"))?])
}

#[test]
fn resumed_runs_have_the_same_bytes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (straight, broken) = (folder.path().join("straight"), folder.path().join("broken"));
    let run = tiny()?;
    let (whole, outcome, watch) = train(&run, &straight, None)?;
    assert_eq!((outcome, watch.warnings), (Outcome::Finished, Vec::<String>::new()));
    for stop_at in [1, 6] {
        assert_eq!(train(&run, &broken, Some(stop_at))?.1, Outcome::Interrupted);
    }
    let (method, outcome, _) = train(&run, &broken, None)?;
    assert_eq!(outcome, Outcome::Finished);
    assert!(final_bytes(&straight)? == final_bytes(&broken)?);
    assert_eq!(whole.episodes(), method.episodes());
    // Another number of environments is another run.
    let other = run.clone().sized(4, 24);
    assert!(train(&other, &broken, None).is_err());
    Ok(())
}

/// The networks after a run on so many ranks, stopped after a step or not.
fn on_ranks(run: &RlRun, dir: &Path, ranks: usize, stop_at: Option<u64>) -> Result<ActorCritic> {
    let stop = Arc::new(AtomicBool::new(false));
    let each = |comm: Comm| -> contrastive_core::Result<ActorCritic> {
        let mut watch = Watch { stop_at, stop: stop.clone(), ..Watch::default() };
        let own = run.method.environments / comm.size();
        let environments = colours_from((comm.rank() * own) as u64, own, 1.0)?;
        let observers: Vec<&mut dyn Observer> = vec![&mut watch];
        let stop = stop.clone();
        let options = RunOptions { comm, resume: true, stop, observers, ..RunOptions::new(dir) };
        Ok(fit_in(run, environments, options)?.0)
    };
    run_in_process(ranks, each)?.into_iter().next().ok_or_else(|| anyhow!("no rank"))
}

/// Each plays half of the environments: the same episodes, and networks that differ by rounding. What two have saved one
/// goes on with.
#[test]
fn ranks_share_the_environments() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for enabled in [false, true] {
        let mut run = tiny()?;
        run.method.cpc.enabled = enabled;
        (run.method.updates_per_epoch, run.train.epochs) = (4, 2);
        let dir = |name: &str| folder.path().join(format!("{name}-{enabled}"));
        let one = on_ranks(&run, &dir("one"), 1, None)?;
        let two = on_ranks(&run, &dir("two"), 2, None)?;
        assert!(!one.episodes().is_empty() && two.actor().environments().len() == 4);
        // The auxiliary task of half a batch is another one.
        if !enabled {
            assert_eq!(one.episodes(), two.episodes());
            for ((name, a), (_, b)) in one.params().tensors().into_iter().zip(two.params().tensors()) {
                let gap = (a - b)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(gap < 1e-4, "{name}: {gap}");
            }
        }
        on_ranks(&run, &dir("both"), 2, Some(3))?;
        let both = on_ranks(&run, &dir("both"), 1, None)?;
        assert_eq!(both.actor().environments().len(), 8);
        assert_eq!(both.episodes().len(), one.episodes().len());
    }
    Ok(())
}

/// Paid steps of all steps in the last episodes.
fn share(episodes: &[Episode]) -> f64 {
    let last = &episodes[episodes.len().saturating_sub(100)..];
    last.iter().map(|e| e.total).sum::<f64>() / last.iter().map(|e| e.steps as f64).sum::<f64>()
}

#[test]
fn the_task_is_solved_with_and_without_the_auxiliary_loss() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for enabled in [false, true] {
        let mut run = tiny()?;
        run.method.cpc.enabled = enabled;
        (run.method.updates_per_epoch, run.train.epochs) = (20, 20);
        run.method.entropy_cost = 0.1;
        run.optim.lr = 2e-2;
        let (method, _, watch) = train(&run, &folder.path().join(format!("{enabled}")), None)?;
        assert_eq!(method.name(), if enabled { "a2c-cpc" } else { "a2c" });
        let (early, late) = (share(&method.episodes()[..60]), share(method.episodes()));
        assert!(early < 0.6 && late > 0.75, "cpc {enabled}: {early} {late}");
        let curve = method.curve(400, 10);
        assert!(curve.points.len() == 10 && curve.points[9].mean > 1.5 * curve.points[0].mean, "{curve:?}");
        // Three colours follow each other: all that can be known of what comes is which.
        let bound = (run.method.rows() as f64).ln();
        let ends = watch.cpc.last().copied();
        assert_eq!(ends.is_some(), enabled);
        assert!(ends.is_none_or(|last| last < bound - 0.9 && last > bound - 1.2), "{bound} {:?}", watch.cpc);
    }
    Ok(())
}

#[test]
fn a_task_in_a_maze_runs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut run = tiny()?.sized(2, 6);
    (run.method.updates_per_epoch, run.train.epochs) = (1, 2);
    run.environment.name = "seek_avoid".to_string();
    assert_eq!(fit(&run, RunOptions::new(folder.path()))?.1, Outcome::Finished);
    run.environment.name = "nowhere".to_string();
    let refused = fit(&run, RunOptions::new(folder.path().join("x"))).err().map(|e| e.to_string());
    assert!(refused.is_some_and(|text| text.contains("nowhere") && text.contains("seek_avoid")));
    Ok(())
}
