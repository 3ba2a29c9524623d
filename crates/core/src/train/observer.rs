//! How progress bars, probes and collapse instruments hook into the loop.

use std::collections::HashMap;

use candle_core::Tensor;

use super::{Method, Progress};
use crate::Result;

/// One optimiser step, after its update.
#[derive(Debug)]
pub struct StepRecord<'a> {
    /// The progress that the method saw; `step` counts from 0.
    pub progress: Progress,
    /// The loss, averaged over ranks.
    pub loss: f64,
    /// [`super::StepOutput::terms`] of this rank.
    pub terms: &'a [(String, f64)],
    /// The learning rate of this step.
    pub lr: f64,
    /// The l2 norm of all gradients, averaged over ranks, before clipping.
    pub grad_norm: f64,
    /// [`super::StepOutput::embeddings`].
    pub embeddings: &'a [Tensor],
    /// [`super::StepOutput::assignments`].
    pub assignments: Option<&'a Tensor>,
    /// [`super::StepOutput::features`].
    pub features: Option<&'a Tensor>,
    /// [`crate::data::Batch::labels`].
    pub labels: Option<&'a [u32]>,
    /// Whether this step goes to the log, which is when costly instruments should look.
    pub logged: bool,
    /// Wall time of the step in seconds, waiting for the batch included. Never part of anything compared.
    pub seconds: f64,
    /// Samples of all ranks in a second.
    pub images_per_second: f64,
}

/// One epoch, after its last step.
#[derive(Debug)]
pub struct EpochRecord<'a> {
    /// The progress of the epoch's last step.
    pub progress: Progress,
    /// The loss, averaged over the steps of this epoch that this process made.
    pub loss: f64,
    /// The terms, averaged likewise.
    pub terms: &'a [(String, f64)],
    /// How many steps the averages are over: fewer than an epoch has where the run was resumed within it.
    pub steps: u64,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// What an observer has to say.
#[derive(Debug, Default)]
pub struct Notes {
    pub(super) scalars: Vec<(String, f64)>,
    pub(super) warnings: Vec<String>,
}

impl Notes {
    /// A scalar for the logs.
    pub fn scalar(&mut self, name: impl Into<String>, value: f64) {
        self.scalars.push((name.into(), value));
    }

    /// A warning for the logs and for [`Observer::on_warning`] of every observer.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }
}

/// Sees what the loop does and never changes it. An error ends the run; the last checkpoint stays.
pub trait Observer: Send {
    /// Names the state of this observer in checkpoints; empty for observers without.
    fn name(&self) -> &str {
        ""
    }

    /// What the observer needs to go on as if the run had not been interrupted (the weights of an online probe). Not
    /// empty where [`Observer::name`] is not.
    ///
    /// # Errors
    /// A tensor that cannot be read back from its device.
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// Takes back what [`Observer::state`] gave.
    ///
    /// # Errors
    /// A missing name or another shape.
    fn load_state(&mut self, _state: &HashMap<String, Tensor>) -> Result<()> {
        Ok(())
    }

    /// After every step.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn on_step(&mut self, _record: &StepRecord<'_>, _notes: &mut Notes) -> Result<()> {
        Ok(())
    }

    /// After every epoch, before its checkpoint. [`Method::features`] may be used.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn on_epoch(
        &mut self,
        _record: &EpochRecord<'_>,
        _method: &dyn Method,
        _notes: &mut Notes,
    ) -> Result<()> {
        Ok(())
    }

    /// Something a person should know.
    fn on_warning(&mut self, _step: u64, _text: &str) {}
}
