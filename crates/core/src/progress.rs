//! Where a run stands: what schedules, methods and the loop all look at.

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The run's seed.
    pub seed: u64,
    /// Optimiser steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Epoch of this step, from 0.
    pub epoch: u64,
    /// Epochs of the whole run.
    pub total_epochs: u64,
    /// Steps in an epoch.
    pub steps_per_epoch: u64,
}
