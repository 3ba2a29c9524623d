//! Embeddings of past batches, that small batches are assigned together with.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use contrastive_core::dist::Comm;
use contrastive_core::state::Queue;
use contrastive_core::{Error, Result};

use crate::config::QueueConfig;
use crate::weights::QUEUE;

/// One queue `[L, D]` for each assigned view, the same on all ranks. There is none before the first push.
#[derive(Debug)]
pub struct Queues {
    config: QueueConfig,
    assigned: usize,
    device: Device,
    queues: Vec<Queue>,
}

impl Queues {
    /// No embeddings yet, for `assigned` views.
    pub fn new(config: QueueConfig, assigned: usize, device: &Device) -> Self {
        Self { config, assigned, device: device.clone(), queues: Vec::new() }
    }

    /// This rank's share of the queue of an assigned view, `[L / ranks, D]`; none while the queue is not full. In
    /// Sinkhorn-Knopp, whose sums run over all ranks, the queue then counts once and not once a rank.
    ///
    /// # Errors
    /// Candle's.
    pub fn share(&self, view: usize, comm: &Comm) -> Result<Option<Tensor>> {
        match self.queues.get(view).filter(|queue| queue.is_full()) {
            None => Ok(None),
            Some(queue) => {
                let share = queue.len() / comm.size();
                Ok(Some(queue.rows().narrow(0, comm.rank() * share, share)?))
            }
        }
    }

    /// Replaces the oldest embeddings by a batch's: one tensor `[B, D]` for each assigned view, of all ranks.
    ///
    /// # Errors
    /// A batch larger than the queue.
    pub fn push(&mut self, embeddings: &[Tensor]) -> Result<()> {
        if self.queues.is_empty() {
            let make = |(i, z): (usize, &Tensor)| {
                let (batch, width) = z.dims2()?;
                Queue::empty(&format!("{QUEUE}.{i}"), [self.config.rounded(batch)?, width], &self.device)
            };
            self.queues = embeddings.iter().enumerate().map(make).collect::<Result<_>>()?;
        }
        self.queues.iter_mut().zip(embeddings).try_for_each(|(queue, z)| queue.push(z))
    }

    /// For [`contrastive_core::train::Method::state`].
    ///
    /// # Errors
    /// Candle's.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.queues.iter().map(Queue::state).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Takes back what [`Queues::state`] gave.
    ///
    /// # Errors
    /// A missing name or another shape.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut queues = Vec::new();
        for i in 0..self.assigned {
            let name = format!("{QUEUE}.{i}");
            match state.get(&name).map(Tensor::dims) {
                Some(&[length, width]) => {
                    let mut queue = Queue::empty(&name, [length, width], &self.device)?;
                    queue.load_state(state)?;
                    queues.push(queue);
                }
                // Saved before the queues' first epoch.
                None if i == 0 => break,
                _ => return Err(Error::data(name, "missing in the saved state, or no matrix")),
            }
        }
        self.queues = queues;
        Ok(())
    }
}
