//! Observers that every run has: the collapse instruments and the online probe.

use std::collections::HashMap;

use candle_core::Tensor;

use super::{Notes, Observer, StepRecord};
use crate::Result;
use crate::diagnostics::{Collapse, CollapseConfig};
use crate::eval::{OnlineConfig, OnlineProbe};

/// Logs the collapse instruments and passes on their warnings.
pub struct CollapseMonitor {
    collapse: Collapse,
}

impl CollapseMonitor {
    /// Instruments with these thresholds.
    ///
    /// # Errors
    /// A threshold out of range.
    pub fn new(config: CollapseConfig) -> Result<Self> {
        Ok(Self { collapse: Collapse::new(config)? })
    }
}

impl Observer for CollapseMonitor {
    fn on_step(&mut self, record: &StepRecord<'_>, notes: &mut Notes) -> Result<()> {
        let step = record.progress.step;
        if !self.collapse.due(step) || record.embeddings.is_empty() {
            return Ok(());
        }
        let report =
            self.collapse.observe(step, record.embeddings, record.assignments, Some(record.grad_norm))?;
        for (name, value) in report.values {
            // The loop logs the gradient norm at every logged step.
            if name != "gradient_norm" {
                notes.scalar(format!("collapse/{name}"), value);
            }
        }
        for warning in report.warnings {
            notes.warn(warning.to_string());
        }
        Ok(())
    }
}

/// A linear probe trained beside the method on features cut from the graph (`online-linear-v1`). Needs labels.
pub struct ProbeMonitor {
    probe: Option<OnlineProbe>,
    classes: usize,
    seed: u64,
    waiting: Option<HashMap<String, Tensor>>,
}

impl ProbeMonitor {
    /// A probe of `classes` classes whose beginning is drawn from `seed`.
    pub fn new(classes: usize, seed: u64) -> Self {
        Self { probe: None, classes, seed, waiting: None }
    }
}

impl Observer for ProbeMonitor {
    fn name(&self) -> &str {
        "online-linear-v1"
    }

    fn on_step(&mut self, record: &StepRecord<'_>, notes: &mut Notes) -> Result<()> {
        let (Some(features), Some(labels)) = (record.features, record.labels) else { return Ok(()) };
        let probe = match &mut self.probe {
            Some(probe) => probe,
            empty => {
                let mut probe =
                    OnlineProbe::new(features.dim(1)?, self.classes, &OnlineConfig::default(), self.seed)?;
                if let Some(state) = self.waiting.take() {
                    probe.load_state(&state)?;
                }
                empty.insert(probe)
            }
        };
        let report = probe.update(features, labels)?;
        if record.logged {
            notes.scalar("online-linear-v1/loss", report.loss);
            notes.scalar("online-linear-v1/top1", report.accuracy);
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        match (&self.probe, &self.waiting) {
            (Some(probe), _) => probe.state(),
            (None, Some(state)) => Ok(state.iter().map(|(n, t)| (n.clone(), t.clone())).collect()),
            (None, None) => Ok(Vec::new()),
        }
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        // The width is known with the first features only.
        self.waiting = (!state.is_empty()).then(|| state.clone());
        Ok(())
    }
}
