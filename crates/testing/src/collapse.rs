//! Failures that must not pass in silence.

use anyhow::Result;
use contrastive_core::data::{Split, embedded};
use contrastive_core::diagnostics::{Collapse, CollapseConfig, WarningKind};
use contrastive_core::experiment::{MethodConfig, RunConfig, RunOptions, fit};
use contrastive_core::optim::{OptimizerConfig, SgdConfig};
use contrastive_core::train::{Notes, Observer, StepRecord};

/// The instruments and what they have said, in order.
pub(crate) struct Watch {
    collapse: Collapse,
    pub(crate) kinds: Vec<WarningKind>,
}

impl Watch {
    pub(crate) fn new(config: CollapseConfig) -> Result<Self> {
        Ok(Self { collapse: Collapse::new(config)?, kinds: Vec::new() })
    }
}

impl Observer for Watch {
    fn on_step(&mut self, record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        let step = record.progress.step;
        if self.collapse.due(step) && !record.embeddings.is_empty() {
            let report =
                self.collapse.observe(step, record.embeddings, record.assignments, Some(record.grad_norm))?;
            self.kinds.extend(report.warnings.iter().map(|warning| warning.kind));
        }
        Ok(())
    }
}

/// What the collapse instruments say of a run on the embedded sign-language digits, in order. They look at every fifth
/// step, with the thresholds of every run.
pub fn warnings<M: MethodConfig>(run: &RunConfig<M>) -> Result<Vec<WarningKind>> {
    let mut watch = Watch::new(CollapseConfig { every: 5, ..CollapseConfig::default() })?;
    let folder = tempfile::tempdir()?;
    let options = RunOptions { observers: vec![&mut watch], ..RunOptions::new(folder.path().join("run")) };
    fit(run, embedded::sign_digits(Split::Train)?, options)?;
    Ok(watch.kinds)
}

/// The instruments stay silent over the first `epochs` of a run.
pub fn assert_no_warnings<M: MethodConfig>(mut run: RunConfig<M>, epochs: u64) -> Result<()> {
    run.train.epochs = epochs;
    let seen = warnings(&run)?;
    assert!(seen.is_empty(), "{seen:?}");
    Ok(())
}

/// Where a loss has no known way to collapse of its own, the network still has: weights that decay to nothing, or one
/// leap of a rate that is far too high, leave the head's bias for every image. Both are seen within three epochs.
pub fn assert_network_collapse_is_seen<M: MethodConfig>(run: &RunConfig<M>) -> Result<()> {
    let mut decayed = run.clone();
    decayed.optim.optimizer = OptimizerConfig::Sgd(SgdConfig { weight_decay: 3.0, ..SgdConfig::default() });
    let mut leapt = run.clone();
    leapt.optim.lr = 20.0;
    for (what, mut run) in [("decayed", decayed), ("leapt", leapt)] {
        run.train.epochs = 3;
        let seen = warnings(&run)?;
        assert!(seen.contains(&WarningKind::Constant), "{what}: {seen:?}");
    }
    Ok(())
}
