//! Linear probe on frozen features by stochastic gradient descent.

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::features::Features;
use super::matrix::{Matrix, product};
use super::metrics::{Outcome, Predictions};
use super::softmax::Block;
use crate::rng::{Key, Purpose};
use crate::{Error, Result};

/// Rows per unit of work. Fixed, so that gradients are summed in the same order for any number of threads.
const ROWS: usize = 64;
/// Parameters per unit of work of an update.
const PARAMETERS: usize = 1 << 15;

/// How the learning rate falls; it is constant within an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinearSchedule {
    /// `lr * (1 + cos(pi * epoch / epochs)) / 2`.
    Cosine,
    /// Times 0.1 at each of these epochs (MoCo: 60, 80).
    Steps(Vec<usize>),
}

/// How the weight begins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinearInit {
    /// PyTorch's `Linear`: weight and bias uniform in `±1/sqrt(dim)`.
    Torch,
    /// Weight normal with this standard deviation, bias 0 (MoCo: 0.01).
    Normal(f64),
}

/// Settings of [`train_linear`]: cross-entropy, SGD with momentum, every sample once an epoch, the last smaller batch
/// kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinearConfig {
    /// Passes over the training set.
    pub epochs: usize,
    /// Samples in a step.
    pub batch: usize,
    /// The learning rate at the beginning.
    pub lr: f64,
    /// Momentum (PyTorch's form: `v = m v + g`, `w -= lr v`).
    pub momentum: f64,
    /// Nesterov's form: `w -= lr (g + m v)`.
    pub nesterov: bool,
    /// Decay added to the gradient of weight and bias.
    pub weight_decay: f64,
    /// The fall of the learning rate.
    pub schedule: LinearSchedule,
    /// The beginning of the weight.
    pub init: LinearInit,
    /// Whether features are standardised first with the training set's mean and standard deviation (+ 1e-6).
    pub standardize: bool,
    /// Names the streams of initial weights and batch order.
    pub seed: u64,
}

impl LinearConfig {
    /// The settings of `linear-sgd-v1`: 100 epochs, batch 256, lr 0.05 falling by a cosine, momentum 0.9, no decay,
    /// standardised features, PyTorch's initial weights.
    pub fn v1() -> Self {
        Self {
            epochs: 100,
            batch: 256,
            lr: 0.05,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.0,
            schedule: LinearSchedule::Cosine,
            init: LinearInit::Torch,
            standardize: true,
            seed: 0,
        }
    }

    /// MoCo's settings (He et al., CVPR 2020, section 4.1: lr 30, 100 epochs, times 0.1 at 60 and 80, weight
    /// N(0, 0.01)) on features as they are. MoCo augments while it trains the probe; frozen features cannot.
    pub fn moco() -> Self {
        Self {
            lr: 30.0,
            schedule: LinearSchedule::Steps(vec![60, 80]),
            init: LinearInit::Normal(0.01),
            standardize: false,
            ..Self::v1()
        }
    }

    /// SimCLR's settings (Chen et al., ICML 2020, appendix B.6: Nesterov momentum 0.9, 90 epochs, batch 4096,
    /// lr 0.1 * batch / 256, no decay) on features as they are. SimCLR augments while it trains the probe; frozen
    /// features cannot.
    pub fn simclr() -> Self {
        Self { epochs: 90, batch: 4096, lr: 1.6, nesterov: true, standardize: false, ..Self::v1() }
    }

    fn rate(&self, epoch: usize) -> f64 {
        match &self.schedule {
            LinearSchedule::Cosine => {
                let done = epoch as f64 / self.epochs as f64;
                self.lr * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
            LinearSchedule::Steps(at) => {
                let passed = at.iter().filter(|&&e| epoch >= e).count();
                self.lr * 0.1f64.powi(passed as i32)
            }
        }
    }

    fn check(&self) -> Result<()> {
        if self.epochs == 0 || self.batch == 0 {
            return Err(Error::config("linear.epochs", "epochs and batch must be 1 or more"));
        }
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::config("linear.lr", format!("{} is not a positive number", self.lr)));
        }
        Ok(())
    }
}

/// A linear classifier on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearClassifier {
    pub(crate) dim: usize,
    pub(crate) classes: usize,
    // `[dim, classes]`: the layout in which both products run without a copy of the weight.
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl LinearClassifier {
    /// With initial weights drawn from `key`.
    pub fn new(dim: usize, classes: usize, init: LinearInit, key: Key) -> Self {
        let mut classifier =
            Self { dim, classes, weight: vec![0.0; dim * classes], bias: vec![0.0; classes] };
        let fill = |name: &str, values: &mut [f32], normal: f64, bound: f64| {
            let mut stream = key.name(name).stream();
            for x in values {
                *x = if normal > 0.0 { normal * stream.normal() } else { stream.uniform(-bound, bound) }
                    as f32;
            }
        };
        match init {
            LinearInit::Torch => {
                let bound = 1.0 / (dim.max(1) as f64).sqrt();
                fill("linear.weight", &mut classifier.weight, 0.0, bound);
                fill("linear.bias", &mut classifier.bias, 0.0, bound);
            }
            LinearInit::Normal(std) => fill("linear.weight", &mut classifier.weight, std, 0.0),
        }
        classifier
    }

    /// The weight `[classes, dim]` and the bias `[classes]`, as PyTorch's `Linear` has them.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn tensors(&self) -> Result<(Tensor, Tensor)> {
        let weight = Tensor::from_slice(&self.weight, (self.dim, self.classes), &Device::Cpu)?;
        let bias = Tensor::from_slice(&self.bias, self.classes, &Device::Cpu)?;
        Ok((weight.t()?.contiguous()?, bias))
    }

    /// Classifies features of the width that the classifier was trained on.
    ///
    /// # Errors
    /// [`Error::Data`] for another width.
    pub fn predict(&self, test: &Features) -> Result<Predictions> {
        if test.dim != self.dim {
            let reason = format!("width {} where the classifier has {}", test.dim, self.dim);
            return Err(Error::data("test features", reason));
        }
        let outcomes: Vec<Vec<Outcome>> = test
            .data
            .par_chunks(ROWS * self.dim)
            .zip(test.labels.par_chunks(ROWS))
            .map(|(rows, labels)| {
                let mut scores = vec![0f32; labels.len() * self.classes];
                let x = Matrix::row_major(rows, labels.len(), self.dim);
                product(&mut scores, x, Matrix::row_major(&self.weight, self.dim, self.classes));
                let of_row = |(scores, &label): (&mut [f32], &u32)| {
                    scores.iter_mut().zip(&self.bias).for_each(|(s, b)| *s += b);
                    Outcome::from_scores(scores, label)
                };
                scores.chunks_exact_mut(self.classes).zip(labels).map(of_row).collect()
            })
            .collect();
        Ok(Predictions::new(self.classes.max(test.classes()), &test.labels, outcomes.concat()))
    }
}

/// A trained probe.
#[derive(Debug, Clone)]
pub struct LinearFit {
    /// The classifier, for features prepared as the training features were.
    pub classifier: LinearClassifier,
    /// Mean training loss of every epoch, in nats, each batch seen before its update.
    pub losses: Vec<f64>,
}

/// Trains a linear classifier on `train` as it is (standardising is [`super::Protocol::evaluate`]'s or the caller's),
/// the same to the bit for any number of threads. Labels are below `classes`.
///
/// # Errors
/// [`Error::Config`] for settings out of range, [`Error::NonFinite`] when the loss stops being a number.
pub fn train_linear(train: &Features, classes: usize, config: &LinearConfig) -> Result<LinearFit> {
    let key = Key::new(config.seed, Purpose::Eval);
    let start = LinearClassifier::new(train.dim, classes, config.init, key);
    let order = key.name("linear.order");
    train_from(train, start, config, |epoch| order.epoch(epoch as u64).stream().permutation(train.n))
}

/// The training itself, with the beginning and the order of samples in each epoch given.
pub(crate) fn train_from(
    train: &Features,
    start: LinearClassifier,
    config: &LinearConfig,
    order: impl Fn(usize) -> Vec<usize>,
) -> Result<LinearFit> {
    config.check()?;
    let (dim, classes) = (start.dim, start.classes);
    let mut sgd = Sgd::new(start, config.momentum, config.nesterov, config.weight_decay);
    let blocks = config.batch.min(train.n).div_ceil(ROWS);
    let mut blocks: Vec<Block<f32>> = (0..blocks).map(|_| Block::new(ROWS, dim, classes)).collect();
    let mut losses = Vec::with_capacity(config.epochs);
    let mut step = 0u64;
    for epoch in 0..config.epochs {
        let (order, lr) = (order(epoch), config.rate(epoch));
        let mut total = 0f64;
        for batch in order.chunks(config.batch) {
            let used = batch.len().div_ceil(ROWS);
            let (weight, bias) = (&sgd.classifier.weight, &sgd.classifier.bias);
            blocks[..used].par_iter_mut().zip(batch.par_chunks(ROWS)).for_each(|(block, samples)| {
                block.labels.clear();
                for (&sample, x) in samples.iter().zip(block.x.chunks_exact_mut(dim)) {
                    x.copy_from_slice(train.row(sample));
                    block.labels.push(train.labels[sample]);
                }
                block.run(weight, bias);
            });
            let loss: f64 = blocks[..used].iter().map(|b| b.loss).sum();
            if !loss.is_finite() {
                return Err(Error::NonFinite { what: "linear probe's loss".to_string(), step });
            }
            total += loss;
            sgd.step(&blocks[..used], batch.len(), lr);
            step += 1;
        }
        losses.push(total / train.n as f64);
    }
    Ok(LinearFit { classifier: sgd.classifier, losses })
}

/// SGD with momentum over a classifier's flat buffers.
#[derive(Debug, Clone)]
pub(super) struct Sgd {
    pub(super) classifier: LinearClassifier,
    /// Velocity of the weight, `[dim, classes]`, and of the bias.
    pub(super) velocity: [Vec<f32>; 2],
    momentum: f32,
    nesterov: bool,
    weight_decay: f32,
}

impl Sgd {
    pub(super) fn new(
        classifier: LinearClassifier,
        momentum: f64,
        nesterov: bool,
        weight_decay: f64,
    ) -> Self {
        let velocity = [vec![0.0; classifier.weight.len()], vec![0.0; classifier.bias.len()]];
        let (momentum, weight_decay) = (momentum as f32, weight_decay as f32);
        Self { classifier, velocity, momentum, nesterov, weight_decay }
    }

    /// One update with the mean gradient over `samples` rows, whose sum is spread over `blocks`.
    pub(super) fn step(&mut self, blocks: &[Block<f32>], samples: usize, lr: f64) {
        let scale = 1.0 / samples as f32;
        let (momentum, nesterov, decay, lr) = (self.momentum, self.nesterov, self.weight_decay, lr as f32);
        let update = |values: &mut [f32], velocity: &mut [f32], gradient: &(dyn Fn(usize) -> f32 + Sync)| {
            for (i, (w, v)) in values.iter_mut().zip(velocity).enumerate() {
                let g = gradient(i) * scale + decay * *w;
                *v = momentum * *v + g;
                *w -= lr * if nesterov { g + momentum * *v } else { *v };
            }
        };
        let [weight_velocity, bias_velocity] = &mut self.velocity;
        update(&mut self.classifier.bias, bias_velocity, &|i| blocks.iter().map(|b| b.grad_bias[i]).sum());
        let one = |(p, (values, velocity)): (usize, (&mut [f32], &mut [f32]))| {
            let first = p * PARAMETERS;
            let mut sum = vec![0f32; values.len()];
            for block in blocks {
                sum.iter_mut().zip(&block.grad_weight[first..]).for_each(|(s, g)| *s += g);
            }
            update(values, velocity, &|i| sum[i]);
        };
        let weight = &mut self.classifier.weight;
        // One unit of work is not worth waking a thread for.
        if weight.len() <= PARAMETERS {
            one((0, (weight, weight_velocity)));
        } else {
            let parts =
                weight.par_chunks_mut(PARAMETERS).zip(weight_velocity.par_chunks_mut(PARAMETERS)).enumerate();
            parts.for_each(one);
        }
    }
}
