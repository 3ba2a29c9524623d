//! Ranks that compute together.
//!
//! A rank is one participant of a data-parallel run. Losses and layers that need all ranks (NT-Xent's negatives,
//! synchronised batch norm) take a [`Comm`] and nothing else.
//!
//! **Convention for gradients.** Each rank's loss is the mean over its own samples, the loss of the run is the mean of
//! the ranks' losses. A gather sums the gradients of all ranks in its backward pass, and the training loop *averages*
//! parameter gradients over ranks. So one rank of 2B and two ranks of B give the same gradient, and no
//! factor of the world size appears anywhere else.

mod buckets;
mod grad;
mod in_process;
mod timed;

pub use buckets::all_reduce_mean;
pub use grad::{all_gather_with_grad, all_reduce_with_grad};
pub use in_process::{
    DEFAULT_TIMEOUT, in_process, in_process_with_timeout, run_in_process, run_in_process_with_timeout,
};
pub use timed::{Timed, straggler};

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::Tensor;

use crate::Result;

/// Collective operations over all ranks. Every rank must make the same calls in the same order.
pub trait Communicator: Send + Sync + Debug {
    /// This rank, from 0.
    fn rank(&self) -> usize;
    /// The number of ranks.
    fn size(&self) -> usize;
    /// Element-wise sum over ranks, added in rank order so that all ranks get the same bytes. No gradient.
    ///
    /// # Errors
    /// Ranks that bring different shapes, or a rank that is gone.
    fn all_reduce_sum(&self, x: &Tensor) -> Result<Tensor>;
    /// Concatenation along the first dimension in rank order. No gradient.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_sum`].
    fn all_gather(&self, x: &Tensor) -> Result<Tensor>;
    /// The tensor of rank `root`.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_sum`].
    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor>;
    /// Returns when all ranks have come.
    ///
    /// # Errors
    /// A rank that is gone.
    fn barrier(&self) -> Result<()>;
}

/// A shared communicator.
pub type Comm = Arc<dyn Communicator>;

/// The only rank there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Single;

impl Communicator for Single {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn all_reduce_sum(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.detach())
    }
    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.detach())
    }
    fn broadcast(&self, x: &Tensor, _root: usize) -> Result<Tensor> {
        Ok(x.detach())
    }
    fn barrier(&self) -> Result<()> {
        Ok(())
    }
}

/// A communicator of one rank.
pub fn single() -> Comm {
    Arc::new(Single)
}
