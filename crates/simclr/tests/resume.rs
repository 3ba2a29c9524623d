//! An interrupted and resumed run ends in the same bytes, whatever the number of loader workers.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use contrastive_core::data::{Split, Subset, embedded};
use contrastive_core::experiment::{RunOptions, fit};
use contrastive_core::train::{Notes, Observer, Outcome, StepRecord};

/// Raises the stop flag after a step.
struct StopAt(u64, Arc<AtomicBool>);

impl Observer for StopAt {
    fn on_step(&mut self, record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        if record.progress.step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn run(dir: &Path, workers: usize, stop_at: Option<u64>, resume: bool) -> Result<Outcome> {
    let mut run = common::tiny()?;
    run.train.epochs = 2;
    run.train.batch_size = 16;
    let source = Subset::class_balanced(embedded::sign_digits(Split::Train)?, 8, 0)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut stopper = StopAt(stop_at.unwrap_or(u64::MAX), stop.clone());
    let options = RunOptions { resume, workers, stop, observers: vec![&mut stopper], ..RunOptions::new(dir) };
    Ok(fit(&run, source, options)?.1)
}

fn final_bytes(dir: &Path) -> Result<[Vec<u8>; 2]> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir.join("checkpoints"))?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    names.sort();
    let last = names.last().ok_or_else(|| anyhow::anyhow!("no checkpoint"))?;
    Ok([std::fs::read(last)?, std::fs::read(dir.join("encoder.safetensors"))?])
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let straight = folder.path().join("straight");
    assert_eq!(run(&straight, 1, None, false)?, Outcome::Finished);
    let expected = final_bytes(&straight)?;
    for (workers, stop_at) in [(0, 0), (2, 3), (4, 7)] {
        let dir = folder.path().join(format!("stopped-{workers}"));
        assert_eq!(run(&dir, workers, Some(stop_at), false)?, Outcome::Interrupted);
        assert_eq!(run(&dir, workers, None, true)?, Outcome::Finished);
        assert!(final_bytes(&dir)? == expected, "{workers} workers, stopped after step {stop_at}");
    }
    Ok(())
}
