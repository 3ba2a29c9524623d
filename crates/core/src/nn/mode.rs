//! How a forward pass is made.

use std::sync::Arc;

use candle_core::Tensor;

use crate::dist::{Comm, single};
use crate::rng::{Key, Purpose};
use crate::{Error, Result};

/// Train or evaluation, with or without gradients, among which ranks.
///
/// A momentum encoder runs in train mode (batch statistics) without gradients: `Mode::train(comm).without_grad()`.
#[derive(Debug, Clone)]
pub struct Mode {
    /// Batch norm uses the statistics of the batch and updates its running ones.
    pub train: bool,
    /// Batch norm moves its running statistics in training. Without, a pass that only repeats another leaves them.
    pub track: bool,
    /// Parameters are part of the graph. Without, no intermediate is kept.
    pub grad: bool,
    /// The ranks that synchronised layers talk to.
    pub comm: Comm,
    /// What stochastic layers draw from; needed in training by networks that have such layers.
    pub noise: Option<Noise>,
}

/// The names of the draws of a pass: one stream for every row of the batch.
#[derive(Debug, Clone)]
pub struct Noise {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step.
    pub step: u64,
    /// Sample and view of each row.
    pub rows: Arc<[(u64, u64)]>,
}

impl Mode {
    /// Training, with gradients.
    pub fn train(comm: &Comm) -> Self {
        Self { train: true, track: true, grad: true, comm: comm.clone(), noise: None }
    }

    /// Evaluation, without gradients.
    pub fn eval() -> Self {
        Self { train: false, track: false, grad: false, comm: single(), noise: None }
    }

    /// The same without gradients.
    pub fn without_grad(&self) -> Self {
        Self { grad: false, ..self.clone() }
    }

    /// The same, leaving running statistics as they are.
    pub fn without_tracking(&self) -> Self {
        Self { track: false, ..self.clone() }
    }

    /// The same in evaluation behaviour but with gradients kept as they are (fine-tuning with frozen statistics).
    pub fn with_running_statistics(&self) -> Self {
        Self { train: false, ..self.clone() }
    }

    /// The same with draws for stochastic layers.
    pub fn with_noise(&self, noise: Noise) -> Self {
        Self { noise: Some(noise), ..self.clone() }
    }

    /// `count` uniform numbers in `[0, 1)` for each of `n` rows, by name: the same for any split over ranks.
    ///
    /// # Errors
    /// [`Error::Config`] without [`Mode::noise`], [`Error::Shape`] if it names another number of rows.
    pub(crate) fn uniforms(&self, n: usize, count: usize) -> Result<Vec<Vec<f64>>> {
        let Some(noise) = &self.noise else {
            return Err(Error::config("drop_path", "stochastic layers need `Mode::with_noise` in training"));
        };
        if noise.rows.len() != n {
            return Err(Error::shape("noise", format!("{n} rows"), &[noise.rows.len()]));
        }
        let key = Key::new(noise.seed, Purpose::Layer).epoch(noise.step);
        let draws = |&(sample, view): &(u64, u64)| {
            let mut stream = key.sample(sample).view(view).stream();
            (0..count).map(|_| stream.unit()).collect()
        };
        Ok(noise.rows.iter().map(draws).collect())
    }

    /// A parameter as this pass sees it: itself, or cut from the graph (same storage).
    pub fn weight(&self, parameter: &Tensor) -> Tensor {
        if self.grad { parameter.clone() } else { parameter.detach() }
    }
}
