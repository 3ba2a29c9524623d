//! A linear probe that trains beside pre-training, on features cut from the graph.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::features::{Features, to_host};
use super::linear::{LinearClassifier, LinearInit, Sgd};
use super::metrics::Metrics;
use super::softmax::Block;
use crate::rng::{Key, Purpose};
use crate::{Error, Result};

/// Rows per unit of work. Fixed, so that gradients are summed in the same order for any number of threads.
const ROWS: usize = 64;

/// Settings of an [`OnlineProbe`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnlineConfig {
    /// Learning rate, constant.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// Decay added to the gradient.
    pub weight_decay: f64,
}

impl Default for OnlineConfig {
    /// 0.1, 0.9, no decay (lightly's `OnlineLinearClassifier`).
    fn default() -> Self {
        Self { lr: 0.1, momentum: 0.9, weight_decay: 0.0 }
    }
}

/// How the probe stood on a batch before it learnt from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnlineReport {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Top-1, a fraction.
    pub accuracy: f64,
}

/// A linear classifier with its own weights, momentum and update. It reads values, never the graph: it cannot change
/// what the method learns.
#[derive(Debug, Clone)]
pub struct OnlineProbe {
    sgd: Sgd,
    lr: f64,
}

impl OnlineProbe {
    /// For features of width `dim`; initial weights (PyTorch's) come from `seed`.
    ///
    /// # Errors
    /// [`Error::Data`] for no width or fewer than two classes.
    pub fn new(dim: usize, classes: usize, config: &OnlineConfig, seed: u64) -> Result<Self> {
        if dim == 0 || classes < 2 {
            let reason = format!("width {dim} and {classes} classes; needs 1 and 2 or more");
            return Err(Error::data("online probe", reason));
        }
        let key = Key::new(seed, Purpose::Eval).name("online");
        let classifier = LinearClassifier::new(dim, classes, LinearInit::Torch, key);
        Ok(Self { sgd: Sgd::new(classifier, config.momentum, false, config.weight_decay), lr: config.lr })
    }

    /// One step on features `[N, D]` of any device and float type.
    ///
    /// # Errors
    /// As [`OnlineProbe::update_slice`].
    pub fn update(&mut self, features: &Tensor, labels: &[u32]) -> Result<OnlineReport> {
        let (data, dim) = to_host(features)?;
        if dim != self.sgd.classifier.dim {
            return Err(Error::shape(
                "online probe",
                format!("[N, {}]", self.sgd.classifier.dim),
                features.dims(),
            ));
        }
        self.update_slice(&data, labels)
    }

    /// One step on features `[N, D]`, row by row. On an error nothing has changed.
    ///
    /// # Errors
    /// [`Error::Data`] for no sample, a number of values that does not fit, a label out of range, or a feature that is
    /// not finite.
    pub fn update_slice(&mut self, features: &[f32], labels: &[u32]) -> Result<OnlineReport> {
        let (dim, classes) = (self.sgd.classifier.dim, self.sgd.classifier.classes);
        let fail = |reason: String| Err(Error::data("online probe", reason));
        if labels.is_empty() || features.len() != labels.len() * dim {
            return fail(format!("{} values of width {dim} for {} labels", features.len(), labels.len()));
        }
        if let Some(label) = labels.iter().find(|&&label| label as usize >= classes) {
            return fail(format!("label {label} where there are {classes} classes"));
        }
        if let Some(i) = features.iter().position(|x| !x.is_finite()) {
            return fail(format!("sample {}, dimension {} is {}", i / dim, i % dim, features[i]));
        }
        let (weight, bias) = (&self.sgd.classifier.weight, &self.sgd.classifier.bias);
        let blocks: Vec<Block<f32>> = features
            .par_chunks(ROWS * dim)
            .zip(labels.par_chunks(ROWS))
            .map(|(rows, labels)| {
                let mut block = Block::new(labels.len(), dim, classes);
                block.x.copy_from_slice(rows);
                block.labels.extend_from_slice(labels);
                block.run(weight, bias);
                block
            })
            .collect();
        self.sgd.step(&blocks, labels.len(), self.lr);
        let n = labels.len() as f64;
        let loss = blocks.iter().map(|b| b.loss).sum::<f64>() / n;
        let accuracy = blocks.iter().map(|b| b.hits).sum::<usize>() as f64 / n;
        Ok(OnlineReport { loss, accuracy })
    }

    /// Measures the probe as it is on a held-out set.
    ///
    /// # Errors
    /// As [`Features::check`]; another width.
    pub fn evaluate(&self, test: &Features) -> Result<Metrics> {
        test.check("test")?;
        Ok(self.sgd.classifier.predict(test)?.metrics())
    }

    /// `weight` `[classes, dim]`, `bias` `[classes]` and their momentum (`momentum/weight`, `momentum/bias`), copies
    /// on the CPU.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let classifier = &self.sgd.classifier;
        let [weight_velocity, bias_velocity] = &self.sgd.velocity;
        let mut state = Vec::with_capacity(4);
        for (prefix, weight, bias) in
            [("", &classifier.weight, &classifier.bias), ("momentum/", weight_velocity, bias_velocity)]
        {
            let weight = Tensor::from_slice(weight, (classifier.dim, classifier.classes), &Device::Cpu)?;
            state.push((format!("{prefix}weight"), weight.t()?.contiguous()?));
            state
                .push((format!("{prefix}bias"), Tensor::from_slice(bias, classifier.classes, &Device::Cpu)?));
        }
        Ok(state)
    }

    /// Takes back what [`OnlineProbe::state`] gave; the next update is the same to the bit. On an error nothing has
    /// changed.
    ///
    /// # Errors
    /// [`Error::Data`] for a missing name, [`Error::Shape`] for another shape.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let (dim, classes) = (self.sgd.classifier.dim, self.sgd.classifier.classes);
        let read = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
            let tensor = state
                .get(name)
                .ok_or_else(|| Error::data("online probe state", format!("`{name}` is missing")))?;
            if tensor.dims() != shape {
                return Err(Error::shape(
                    "online probe state",
                    format!("{shape:?} for `{name}`"),
                    tensor.dims(),
                ));
            }
            let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let tensor = if shape.len() == 2 { tensor.t()?.contiguous()? } else { tensor };
            Ok(tensor.flatten_all()?.to_vec1::<f32>()?)
        };
        let weight = read("weight", &[classes, dim])?;
        let bias = read("bias", &[classes])?;
        let velocity = [read("momentum/weight", &[classes, dim])?, read("momentum/bias", &[classes])?];
        self.sgd.classifier = LinearClassifier { dim, classes, weight, bias };
        self.sgd.velocity = velocity;
        Ok(())
    }
}
