//! How a forward pass is made.

use candle_core::Tensor;

use crate::dist::{Comm, single};

/// Train or evaluation, with or without gradients, among which ranks.
///
/// A momentum encoder runs in train mode (batch statistics) without gradients: `Mode::train(comm).without_grad()`.
#[derive(Debug, Clone)]
pub struct Mode {
    /// Batch norm uses the statistics of the batch and updates its running ones.
    pub train: bool,
    /// Parameters are part of the graph. Without, no intermediate is kept.
    pub grad: bool,
    /// The ranks that synchronised layers talk to.
    pub comm: Comm,
}

impl Mode {
    /// Training, with gradients.
    pub fn train(comm: &Comm) -> Self {
        Self { train: true, grad: true, comm: comm.clone() }
    }

    /// Evaluation, without gradients.
    pub fn eval() -> Self {
        Self { train: false, grad: false, comm: single() }
    }

    /// The same without gradients.
    pub fn without_grad(&self) -> Self {
        Self { grad: false, ..self.clone() }
    }

    /// The same in evaluation behaviour but with gradients kept as they are (fine-tuning with frozen statistics).
    pub fn with_running_statistics(&self) -> Self {
        Self { train: false, ..self.clone() }
    }

    /// A parameter as this pass sees it: itself, or cut from the graph (same storage).
    pub fn weight(&self, parameter: &Tensor) -> Tensor {
        if self.grad { parameter.clone() } else { parameter.detach() }
    }
}
