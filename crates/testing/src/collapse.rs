//! Failures that must not pass in silence.

use anyhow::Result;
use contrastive_core::data::{Split, embedded};
use contrastive_core::diagnostics::{Collapse, CollapseConfig, WarningKind};
use contrastive_core::experiment::{MethodConfig, RunConfig, RunOptions, fit};
use contrastive_core::train::{Notes, Observer, StepRecord};

/// The instruments, looking more often than in a real run.
struct Watch {
    collapse: Collapse,
    kinds: Vec<WarningKind>,
}

impl Observer for Watch {
    fn on_step(&mut self, record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        let step = record.progress.step;
        if self.collapse.due(step) && !record.embeddings.is_empty() {
            let report = self.collapse.observe(step, record.embeddings, Some(record.grad_norm))?;
            self.kinds.extend(report.warnings.iter().map(|warning| warning.kind));
        }
        Ok(())
    }
}

/// What the collapse instruments say of a run on the embedded sign-language digits, in order. They look at every fifth
/// step, with the thresholds of every run.
pub fn warnings<M: MethodConfig>(run: &RunConfig<M>) -> Result<Vec<WarningKind>> {
    let config = CollapseConfig { every: 5, ..CollapseConfig::default() };
    let mut watch = Watch { collapse: Collapse::new(config)?, kinds: Vec::new() };
    let folder = tempfile::tempdir()?;
    let options = RunOptions { observers: vec![&mut watch], ..RunOptions::new(folder.path().join("run")) };
    fit(run, embedded::sign_digits(Split::Train)?, options)?;
    Ok(watch.kinds)
}
