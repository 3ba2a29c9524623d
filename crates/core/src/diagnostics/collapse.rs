//! The monitor: thresholds, hysteresis and words.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Embeddings, information};
use crate::optim::require;
use crate::{Error, Result};

/// Settings of a [`Collapse`] monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollapseConfig {
    /// Steps between observations, at least 1. Default 50.
    pub every: u64,
    /// Rows that effective rank and uniformity look at, 2 to 1024. Default 256.
    pub max_rows: usize,
    /// Observations in a row beyond a threshold before a warning, at least 1. Default 3: a network's first steps may
    /// look collapsed.
    pub patience: u32,
    /// How far a value must come back behind its threshold, as a fraction of it, before the same warning can be raised
    /// again; at least 0. Default 0.2.
    pub hysteresis: f64,
    /// Smallest healthy [`Embeddings::spread`], in `[0, 1]`. Default 0.1.
    pub min_spread: f64,
    /// Largest healthy [`Embeddings::dead_fraction`], in `[0, 1]`. Default 0.25.
    pub max_dead_fraction: f64,
    /// Smallest healthy [`Embeddings::effective_rank`] as a fraction f of the possible: the threshold is
    /// `1 + f (min(N, D) - 1)`. In `[0, 1]`. Default 0.05.
    pub min_rank_fraction: f64,
    /// Smallest healthy [`Embeddings::alignment`] of two views, at least 0. Default 1e-6.
    pub min_alignment: f64,
    /// Smallest healthy [`information`](super::information) of assignments, in `[0, 1]`. Default 0.005.
    pub min_information: f64,
    /// Smallest healthy l2 norm of the gradient, at least 0. Default 1e-8.
    pub min_gradient_norm: f64,
    /// Largest healthy l2 norm of the gradient, above `min_gradient_norm`. Default 1e4.
    pub max_gradient_norm: f64,
}

impl Default for CollapseConfig {
    fn default() -> Self {
        Self {
            every: 50,
            max_rows: 256,
            patience: 3,
            hysteresis: 0.2,
            min_spread: 0.1,
            max_dead_fraction: 0.25,
            min_rank_fraction: 0.05,
            min_alignment: 1e-6,
            min_information: 0.005,
            min_gradient_norm: 1e-8,
            max_gradient_norm: 1e4,
        }
    }
}

impl CollapseConfig {
    /// Checks every range. `at` is where these settings stand in the whole configuration (`collapse`).
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and the allowed range.
    pub fn check(&self, at: &str) -> Result<()> {
        require(self.every >= 1, at, "every", "at least 1", self.every as f64)?;
        let rows = self.max_rows;
        require((2..=1024).contains(&rows), at, "max_rows", "in [2, 1024]", rows as f64)?;
        require(self.patience >= 1, at, "patience", "at least 1", f64::from(self.patience))?;
        for (key, value) in [
            ("min_spread", self.min_spread),
            ("max_dead_fraction", self.max_dead_fraction),
            ("min_rank_fraction", self.min_rank_fraction),
            ("min_information", self.min_information),
        ] {
            require((0.0..=1.0).contains(&value), at, key, "in [0, 1]", value)?;
        }
        for (key, value) in [
            ("hysteresis", self.hysteresis),
            ("min_alignment", self.min_alignment),
            ("min_gradient_norm", self.min_gradient_norm),
        ] {
            require(value >= 0.0 && value.is_finite(), at, key, "at least 0 and finite", value)?;
        }
        let largest = self.max_gradient_norm;
        require(largest > self.min_gradient_norm, at, "max_gradient_norm", "above min_gradient_norm", largest)
    }
}

/// What a [`Warning`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WarningKind {
    /// Embeddings or gradient hold values that are not numbers.
    NonFinite,
    /// All samples have nearly the same embedding.
    Constant,
    /// The embeddings lie in few directions.
    Rank,
    /// Many dimensions do not vary.
    DeadDimensions,
    /// Both views of a sample have the same embedding, though samples differ.
    SameViews,
    /// The distributions over prototypes or dimensions are the same for every sample.
    Assignments,
    /// The gradient is as good as zero.
    VanishingGradient,
    /// The gradient is far too large.
    ExplodingGradient,
}

impl WarningKind {
    /// What it means, in one sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NonFinite => "the network has left the range of numbers and cannot recover",
            Self::Constant => "complete collapse: the network gives every image nearly the same embedding",
            Self::Rank => "dimensional collapse: the embeddings use only a few directions of their space",
            Self::DeadDimensions => {
                "dimensional collapse: part of the dimensions is the same for every image"
            }
            Self::SameViews => {
                "the two views of a sample are one: the task is solved without learning anything"
            }
            Self::Assignments => {
                "complete collapse: the distributions are all uniform, or all one and the same dimension's"
            }
            Self::VanishingGradient => "nothing is learnt: the loss no longer depends on the parameters",
            Self::ExplodingGradient => "steps are far too large and the loss is about to diverge",
        }
    }

    /// What to try, in the order of likelihood.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NonFinite => {
                "lower the learning rate or lengthen the warm-up; check the temperature (not near 0) and clip gradients"
            }
            Self::Constant => {
                "check that the target branch is cut from the gradient (stop-gradient, EMA copy) and that a predictor, \
                 centring or negatives are in place; keep batch norm in the projector; lower the learning rate or \
                 lengthen the warm-up"
            }
            Self::Rank => {
                "raise the batch size or the number of negatives; try another temperature; lower the learning rate or \
                 weight decay; soften the augmentation"
            }
            Self::DeadDimensions => {
                "lower the learning rate or lengthen the warm-up (dead ReLU units); put batch norm before the last \
                 layer of the projector; check weight decay on normalisation scales"
            }
            Self::SameViews => {
                "check that the augmentation draws anew for each view and that two views, not one twice, reach the loss"
            }
            Self::Assignments => {
                "check that the teacher is centred (or its assignments balanced), which keeps one dimension from \
                 winning, and that its temperature is below the student's, which keeps them from being uniform; lower \
                 the learning rate or lengthen the warm-up"
            }
            Self::VanishingGradient => {
                "check that the loss is not cut from the online branch (detach) and that the temperature is not too high; \
                 look for complete collapse"
            }
            Self::ExplodingGradient => {
                "lower the learning rate or lengthen the warm-up; clip gradients; check the temperature (not near 0)"
            }
        }
    }
}

/// One finding. Prints as one line: what was seen, what it means, what to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// What it is about.
    pub kind: WarningKind,
    /// The step of the observation.
    pub step: u64,
    /// What was seen, with value and threshold.
    pub seen: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, step, seen } = self;
        write!(f, "step {step}: {seen}; {}; try: {}", kind.meaning(), kind.remedy())
    }
}

/// What an observation gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Measures by name: `spread`, `dead_fraction`, `effective_rank`, `uniformity`, `alignment` (two views),
    /// `information` (assignments), `gradient_norm` (where given).
    pub values: Vec<(String, f64)>,
    /// New findings. A condition that lasts is reported once.
    pub warnings: Vec<Warning>,
}

impl Report {
    /// The measure of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(n, _)| n == name).map(|(_, value)| *value)
    }
}

/// What a [`Collapse`] monitor remembers between observations, for checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CollapseState {
    conditions: BTreeMap<WarningKind, Condition>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Condition {
    observations: u32,
    raised: bool,
}

/// One measure against its threshold.
struct Test {
    kind: WarningKind,
    name: &'static str,
    value: f64,
    threshold: f64,
    /// Whether values *below* the threshold are at fault.
    below: bool,
}

impl Test {
    fn at_fault(&self) -> bool {
        let healthy = if self.below { self.value >= self.threshold } else { self.value <= self.threshold };
        // NaN is at fault either way.
        !healthy
    }

    fn recovered(&self, hysteresis: f64) -> bool {
        let margin = hysteresis * self.threshold.abs();
        if self.below { self.value >= self.threshold + margin } else { self.value <= self.threshold - margin }
    }

    fn seen(&self) -> String {
        let Self { name, value, threshold, below, .. } = self;
        format!("{name} {value:.3e} is {} {threshold:.3e}", if *below { "below" } else { "above" })
    }
}

/// Watches a run for collapse.
///
/// A warning is raised when its measure has been beyond its threshold for [`CollapseConfig::patience`] observations in
/// a row, and not again until the measure has come back by [`CollapseConfig::hysteresis`]. Complete collapse silences
/// the warnings that merely follow from it.
#[derive(Debug, Clone)]
pub struct Collapse {
    config: CollapseConfig,
    state: CollapseState,
}

impl Collapse {
    /// A monitor that has seen nothing yet.
    ///
    /// # Errors
    /// What [`CollapseConfig::check`] refuses (as `collapse.*`).
    pub fn new(config: CollapseConfig) -> Result<Self> {
        config.check("collapse")?;
        Ok(Self { config, state: CollapseState::default() })
    }

    /// What must be saved so that a resumed run raises the same warnings.
    pub fn state(&self) -> &CollapseState {
        &self.state
    }

    /// Takes back what [`Collapse::state`] gave.
    pub fn load_state(&mut self, state: CollapseState) {
        self.state = state;
    }

    /// Whether `step` (from 0) is one to observe.
    pub fn due(&self, step: u64) -> bool {
        step.is_multiple_of(self.config.every)
    }

    /// Measures the embeddings of a step and compares.
    ///
    /// `views` are tensors `[N, D]` with row i of each belonging to sample i. The first is measured; alignment needs a
    /// second of the same shape. `assignments` `[M, K]` are distributions, of methods that compare such;
    /// `gradient_norm` is [`crate::optim::Gradients::norm`] of the same step.
    ///
    /// # Errors
    /// No view at all, or a first view that [`Embeddings::new`] refuses.
    pub fn observe(
        &mut self,
        step: u64,
        views: &[Tensor],
        assignments: Option<&Tensor>,
        gradient_norm: Option<f64>,
    ) -> Result<Report> {
        let Some(first) = views.first() else {
            return Err(Error::data("collapse monitor", "there are no embeddings to look at"));
        };
        let raw = Embeddings::new(first)?;
        let mut report = Report::default();
        let finite = raw.is_finite() && gradient_norm.is_none_or(f64::is_finite);
        let broken = if finite { 0.0 } else { 1.0 };
        let mut tests = vec![Test {
            kind: WarningKind::NonFinite,
            name: "presence of values that are not finite",
            value: broken,
            threshold: 0.0,
            below: false,
        }];
        if raw.is_finite() {
            self.measure(&raw, views.get(1), &mut report, &mut tests)?;
        }
        if let Some(assignments) = assignments {
            let rows = assignments.dim(0)?.min(self.config.max_rows);
            let value = information(&assignments.narrow(0, 0, rows)?)?;
            report.values.push(("information".to_string(), value));
            tests.push(Test {
                kind: WarningKind::Assignments,
                name: "information of the assignments",
                value,
                threshold: self.config.min_information,
                below: true,
            });
        }
        if let Some(norm) = gradient_norm {
            report.values.push(("gradient_norm".to_string(), norm));
            if norm.is_finite() {
                let (name, value) = ("gradient norm", norm);
                let threshold = self.config.min_gradient_norm;
                tests.push(Test {
                    kind: WarningKind::VanishingGradient,
                    name,
                    value,
                    threshold,
                    below: true,
                });
                let threshold = self.config.max_gradient_norm;
                tests.push(Test {
                    kind: WarningKind::ExplodingGradient,
                    name,
                    value,
                    threshold,
                    below: false,
                });
            }
        }
        for test in &tests {
            if self.judge(test) {
                report.warnings.push(Warning { kind: test.kind, step, seen: test.seen() });
            }
        }
        Ok(report)
    }

    fn measure(
        &self,
        raw: &Embeddings,
        second: Option<&Tensor>,
        report: &mut Report,
        tests: &mut Vec<Test>,
    ) -> Result<()> {
        let config = &self.config;
        let subset = raw.subset(config.max_rows);
        let rank = subset.effective_rank()?;
        let uniformity = subset.normalized().uniformity();
        let normalized = raw.clone().normalized();
        let (spread, dead) = (normalized.spread(), normalized.dead_fraction());
        let mut alignment = None;
        if let Some(second) = second {
            let second = Embeddings::new(second)?;
            if (second.rows(), second.dimensions()) == (raw.rows(), raw.dimensions()) {
                alignment = Some(normalized.alignment(&second.normalized())?);
            }
        }
        let measured = [
            ("spread", Some(spread)),
            ("dead_fraction", Some(dead)),
            ("effective_rank", Some(rank)),
            ("uniformity", Some(uniformity)),
            ("alignment", alignment),
        ];
        for (name, value) in measured {
            report.values.extend(value.map(|value| (name.to_string(), value)));
        }
        let constant = Test {
            kind: WarningKind::Constant,
            name: "spread of the embeddings",
            value: spread,
            threshold: config.min_spread,
            below: true,
        };
        let collapsed = constant.at_fault();
        tests.push(constant);
        if collapsed {
            return Ok(());
        }
        let possible = raw.rows().min(config.max_rows).min(raw.dimensions());
        tests.push(Test {
            kind: WarningKind::Rank,
            name: "effective rank of the embeddings",
            value: rank,
            threshold: 1.0 + config.min_rank_fraction * (possible - 1) as f64,
            below: true,
        });
        tests.push(Test {
            kind: WarningKind::DeadDimensions,
            name: "fraction of dead dimensions",
            value: dead,
            threshold: config.max_dead_fraction,
            below: false,
        });
        tests.extend(alignment.map(|value| Test {
            kind: WarningKind::SameViews,
            name: "alignment of the two views",
            value,
            threshold: config.min_alignment,
            below: true,
        }));
        Ok(())
    }

    /// Whether the test raises its warning now.
    fn judge(&mut self, test: &Test) -> bool {
        let condition = self.state.conditions.entry(test.kind).or_default();
        if test.at_fault() {
            condition.observations = condition.observations.saturating_add(1);
            // Values that are not numbers do not come back: no patience with them.
            let patience = if test.kind == WarningKind::NonFinite { 1 } else { self.config.patience };
            let raise = !condition.raised && condition.observations >= patience;
            condition.raised |= raise;
            return raise;
        }
        condition.observations = 0;
        condition.raised &= !test.recovered(self.config.hysteresis);
        false
    }
}
