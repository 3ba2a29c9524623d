//! Whole runs: resume, and learning at all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use candle_core::Device;
use contrastive_core::augment::EvalTransform;
use contrastive_core::data::{Split, Subset, embedded};
use contrastive_core::diagnostics::{CollapseConfig, WarningKind};
use contrastive_core::eval::{Protocol, metric};
use contrastive_core::experiment::{MethodConfig, RunConfig, RunOptions, features, fit};
use contrastive_core::train::{Method, Notes, Observer, Outcome, StepRecord};

use crate::collapse::Watch;

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

fn train<M: MethodConfig>(
    run: &RunConfig<M>,
    dir: &Path,
    workers: usize,
    stop_at: Option<u64>,
    resume: bool,
) -> Result<Outcome> {
    let source = Subset::class_balanced(embedded::sign_digits(Split::Train)?, 8, 0)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut stopper = StopAt(stop_at.unwrap_or(u64::MAX), stop.clone());
    let options = RunOptions { resume, workers, stop, observers: vec![&mut stopper], ..RunOptions::new(dir) };
    Ok(fit(run, source, options)?.1)
}

fn final_bytes(dir: &Path) -> Result<[Vec<u8>; 2]> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir.join("checkpoints"))?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    names.sort();
    let last = names.last().ok_or_else(|| anyhow!("no checkpoint"))?;
    Ok([std::fs::read(last)?, std::fs::read(dir.join("encoder.safetensors"))?])
}

/// A run on 80 embedded images (two epochs of five steps) that is interrupted and resumed ends in the same bytes,
/// whatever the number of loader workers.
pub fn assert_resumes<M: MethodConfig>(mut run: RunConfig<M>) -> Result<()> {
    run.train.epochs = 2;
    run.train.batch_size = 16;
    let folder = tempfile::tempdir()?;
    let straight = folder.path().join("straight");
    assert_eq!(train(&run, &straight, 1, None, false)?, Outcome::Finished);
    let expected = final_bytes(&straight)?;
    for (workers, stop_at) in [(0, 0), (2, 3), (4, 7)] {
        let dir = folder.path().join(format!("stopped-{workers}"));
        assert_eq!(train(&run, &dir, workers, Some(stop_at), false)?, Outcome::Interrupted);
        assert_eq!(train(&run, &dir, workers, None, true)?, Outcome::Finished);
        assert!(final_bytes(&dir)? == expected, "{workers} workers, stopped after step {stop_at}");
    }
    Ok(())
}

fn knn(method: &dyn Method, eval: &EvalTransform) -> Result<f64> {
    let of = |split| -> Result<_> {
        let source = embedded::sign_digits(split)?;
        Ok(features(|x| method.features(x), source, eval, &Device::Cpu, 1)?.0)
    };
    let metrics = Protocol::KnnK20T007V1.evaluate(&of(Split::Train)?, &of(Split::Test)?)?;
    metric(&metrics, "top1").ok_or_else(|| anyhow!("no top1"))
}

/// The run on the embedded sign-language digits beats the random network it begins with by `margin` of kNN accuracy
/// (of 1), and the instruments see no complete collapse on the way.
pub fn assert_learns<M: MethodConfig>(run: &RunConfig<M>, margin: f64) -> Result<()> {
    let random = knn(run.method.build(run.train.seed, &Device::Cpu)?.as_ref(), &run.eval)?;
    let folder = tempfile::tempdir()?;
    let source = embedded::sign_digits(Split::Train)?;
    let mut watch = Watch::new(CollapseConfig::default())?;
    let options = RunOptions { observers: vec![&mut watch], ..RunOptions::new(folder.path().join("run")) };
    let (method, _) = fit(run, source, options)?;
    let trained = knn(method.as_ref(), &run.eval)?;
    assert!(trained > random + margin, "random {random:.3}, trained {trained:.3}");
    let collapsed = [WarningKind::NonFinite, WarningKind::Constant, WarningKind::Assignments];
    assert!(!watch.kinds.iter().any(|kind| collapsed.contains(kind)), "{:?}", watch.kinds);
    Ok(())
}
