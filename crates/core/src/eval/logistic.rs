//! Linear probe by converged logistic regression.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::features::Features;
use super::lbfgs::{Ending, minimise};
use super::linear::LinearClassifier;
use super::softmax::Block;
use crate::{Error, Result};

/// Rows per unit of work. Fixed, so that sums do not depend on the number of threads.
const ROWS: usize = 128;

/// Settings of [`fit_logistic`], with scikit-learn's meaning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogisticConfig {
    /// Inverse strength of the l2 penalty.
    pub c: f64,
    /// Iterations of L-BFGS at most.
    pub max_iterations: usize,
    /// Converged when no element of the gradient of the objective (per sample) exceeds this.
    pub tolerance: f64,
}

impl LogisticConfig {
    /// The settings of `linear-lbfgs-v1`: C = 1, at most 500 iterations, tolerance 1e-4 (scikit-learn's default).
    pub fn v1() -> Self {
        Self { c: 1.0, max_iterations: 500, tolerance: 1e-4 }
    }
}

/// A fitted logistic regression.
#[derive(Debug, Clone, PartialEq)]
pub struct LogisticFit {
    /// Coefficients, `[dim, classes]` row by row.
    pub weight: Vec<f64>,
    /// Intercepts, `[classes]`.
    pub bias: Vec<f64>,
    /// Iterations made.
    pub iterations: usize,
    /// Whether the tolerance was met.
    pub converged: bool,
    /// The objective per sample: mean cross-entropy in nats plus penalty.
    pub objective: f64,
    /// The largest element of the objective's gradient.
    pub gradient: f64,
}

impl LogisticFit {
    /// The classifier, for features prepared as the training features were.
    pub fn classifier(&self) -> LinearClassifier {
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect();
        let classes = self.bias.len();
        let (weight, bias) = (narrow(&self.weight), narrow(&self.bias));
        LinearClassifier { dim: self.weight.len() / classes.max(1), classes, weight, bias }
    }
}

/// Multinomial logistic regression by L-BFGS (memory 10) from zero, in f64:
///
/// minimise `mean(cross-entropy) + |W|^2 / (2 C n)`, the intercept unpenalised. This is scikit-learn's
/// `LogisticRegression(C)`, whose objective `C * sum(losses) + |W|^2 / 2` is this one times `C n`. With two classes
/// scikit-learn fits a single weight vector w; softmax with W = ±w/2 has half its penalty, so C is halved there to
/// reach the same solution.
///
/// `start` (weights and bias of a neighbouring problem) shortens a sweep. Labels are below `classes`.
///
/// # Errors
/// [`Error::Config`] for a C that is not positive, [`Error::NonFinite`] when the objective stops being a number.
pub fn fit_logistic(
    train: &Features,
    classes: usize,
    config: &LogisticConfig,
    start: Option<&LogisticFit>,
) -> Result<LogisticFit> {
    if !(config.c > 0.0 && config.c.is_finite()) {
        return Err(Error::config("logistic.c", format!("{} is not a positive number", config.c)));
    }
    let weights = train.dim * classes;
    let c = if classes == 2 { config.c / 2.0 } else { config.c };
    let strength = 1.0 / (c * train.n as f64);
    let mut x = match start {
        Some(fit) if fit.weight.len() == weights && fit.bias.len() == classes => {
            [fit.weight.as_slice(), &fit.bias].concat()
        }
        _ => vec![0.0; weights + classes],
    };
    let objective = Objective::new(train, classes, strength);
    let ending = minimise(|x, g| objective.evaluate(x, g), &mut x, config.max_iterations, config.tolerance);
    let Ending { iterations, converged, value, gradient } = ending;
    if !value.is_finite() {
        let what = "logistic regression's objective".to_string();
        return Err(Error::NonFinite { what, step: iterations as u64 });
    }
    let bias = x.split_off(weights);
    Ok(LogisticFit { weight: x, bias, iterations, converged, objective: value, gradient })
}

/// The objective with its buffers.
struct Objective<'a> {
    train: &'a Features,
    classes: usize,
    strength: f64,
    /// One per group of blocks; each holds the sum over its group.
    groups: Vec<Mutex<Group>>,
    blocks_per_group: usize,
}

struct Group {
    block: Block<f64>,
    gradient: Vec<f64>,
    loss: f64,
}

/// Partial sums that are kept at once: enough for many threads, few enough that their gradients fit in memory.
const GROUPS: usize = 16;

impl<'a> Objective<'a> {
    fn new(train: &'a Features, classes: usize, strength: f64) -> Self {
        let blocks = train.n.div_ceil(ROWS);
        let blocks_per_group = blocks.div_ceil(GROUPS);
        let make = |_| {
            let block = Block::new(ROWS.min(train.n), train.dim, classes);
            Mutex::new(Group { block, gradient: vec![0.0; (train.dim + 1) * classes], loss: 0.0 })
        };
        let groups = (0..blocks.div_ceil(blocks_per_group)).map(make).collect();
        Self { train, classes, strength, groups, blocks_per_group }
    }

    fn evaluate(&self, x: &[f64], gradient: &mut [f64]) -> f64 {
        let (dim, n) = (self.train.dim, self.train.n as f64);
        let (weight, bias) = x.split_at(dim * self.classes);
        let per_group = self.blocks_per_group * ROWS;
        let rows = self.train.data.par_chunks(per_group * dim).zip(self.train.labels.par_chunks(per_group));
        self.groups.par_iter().zip(rows).for_each(|(group, (rows, labels))| {
            let mut group = group.lock().unwrap_or_else(PoisonError::into_inner);
            let Group { block, gradient, loss } = &mut *group;
            gradient.fill(0.0);
            *loss = 0.0;
            for (rows, labels) in rows.chunks(ROWS * dim).zip(labels.chunks(ROWS)) {
                block.x.iter_mut().zip(rows).for_each(|(wide, &x)| *wide = f64::from(x));
                block.labels.clear();
                block.labels.extend_from_slice(labels);
                block.run(weight, bias);
                *loss += block.loss;
                let parts = block.grad_weight.iter().chain(&block.grad_bias);
                gradient.iter_mut().zip(parts).for_each(|(sum, g)| *sum += g);
            }
        });
        let mut loss = 0.0;
        gradient.fill(0.0);
        for group in &self.groups {
            let group = group.lock().unwrap_or_else(PoisonError::into_inner);
            loss += group.loss;
            gradient.iter_mut().zip(&group.gradient).for_each(|(sum, g)| *sum += g);
        }
        gradient.iter_mut().for_each(|g| *g /= n);
        gradient.iter_mut().zip(weight).for_each(|(g, w)| *g += self.strength * w);
        loss / n + 0.5 * self.strength * weight.iter().map(|w| w * w).sum::<f64>()
    }
}

/// One strength of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepPoint {
    /// Strength of the penalty, `1 / C`.
    pub l2: f64,
    /// Top-1 on the validation set, a fraction.
    pub top1: f64,
    /// Iterations made.
    pub iterations: usize,
    /// Whether the tolerance was met.
    pub converged: bool,
}

/// The 45 strengths of SimCLR's transfer evaluation (Chen et al., ICML 2020, appendix B.8), log-spaced from 1e-6 to
/// 1e5.
pub fn simclr_strengths() -> Vec<f64> {
    (0..45).map(|i| 10f64.powf(-6.0 + 11.0 * f64::from(i) / 44.0)).collect()
}

/// Fits `train` with every l2 strength (C is its inverse) and measures top-1 on `validation`. From the strongest down,
/// each fit starting at the one before; the answer is in the order of `strengths`. Features are taken as they are.
///
/// # Errors
/// As [`fit_logistic`]; [`Error::Data`] for sets of different width.
pub fn lbfgs_sweep(
    train: &Features,
    validation: &Features,
    strengths: &[f64],
    config: &LogisticConfig,
) -> Result<Vec<SweepPoint>> {
    let classes = train.classes().max(validation.classes());
    let mut order: Vec<usize> = (0..strengths.len()).collect();
    order.sort_by(|&a, &b| strengths[b].total_cmp(&strengths[a]));
    let mut points: Vec<(usize, SweepPoint)> = Vec::with_capacity(strengths.len());
    let mut before = None;
    for place in order {
        let l2 = strengths[place];
        let config = LogisticConfig { c: 1.0 / l2, ..*config };
        let fit = fit_logistic(train, classes, &config, before.as_ref())?;
        let top1 = fit.classifier().predict(validation)?.top(1);
        points.push((place, SweepPoint { l2, top1, iterations: fit.iterations, converged: fit.converged }));
        before = Some(fit);
    }
    points.sort_by_key(|(place, _)| *place);
    Ok(points.into_iter().map(|(_, point)| point).collect())
}
