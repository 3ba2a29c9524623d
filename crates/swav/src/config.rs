//! The method's own settings.

use candle_core::Device;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::BackboneConfig;
use contrastive_core::train::Method;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::method::Swav;

/// SwAV's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwavConfig {
    /// The encoder f.
    pub backbone: BackboneConfig,
    /// The head g.
    pub projector: ProjectorConfig,
    /// K, at least 2: 3000 on ImageNet. It must not greatly exceed the batch and the queue together.
    pub prototypes: usize,
    /// V, at least 2: all crops of a sample, the large ones first.
    pub views: usize,
    /// So many of the first views are assigned to prototypes, 1 to V; every view predicts the assignments of the others.
    pub assigned: usize,
    /// τ, above 0: 0.1.
    pub temperature: f64,
    /// ε, above 0: 0.05. Smaller values give harder assignments (0.03 where the loss stays at ln K).
    pub epsilon: f64,
    /// Rounds of Sinkhorn-Knopp: 3. With 0 every sample has its own softmax and nothing spreads the samples over the
    /// prototypes.
    pub sinkhorn_iterations: usize,
    /// Embeddings of past batches that are assigned together with the batch.
    pub queue: QueueConfig,
    /// Optimiser steps in which the prototypes stay as they began.
    pub freeze_steps: u64,
    /// Prototypes are scaled to unit length before every step. Without, they grow: for the ablation.
    pub normalize_prototypes: bool,
    /// Batch statistics over all ranks instead of each rank's own.
    pub sync_batch_norm: bool,
}

/// The head g: linear, batch norm, ReLU, linear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Width of the hidden layer.
    pub hidden: usize,
    /// D, the width of the embedding.
    pub output: usize,
}

/// The queues, one for each assigned view (section 3.1 of the paper, "Working with small batches").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// Embeddings in each queue, over all ranks together; rounded down to a multiple of the batch. 0 for no queue.
    pub length: usize,
    /// The epoch, from 0, in which the queues begin to fill. They are used once they are full.
    pub start_epoch: u64,
}

impl QueueConfig {
    /// No queue.
    pub fn none() -> Self {
        Self { length: 0, start_epoch: 0 }
    }

    /// The length for this batch over all ranks.
    ///
    /// # Errors
    /// A queue shorter than a batch.
    pub fn rounded(self, batch: usize) -> Result<usize> {
        if self.length > 0 && self.length < batch {
            let reason = format!("{} is less than a batch of {batch}", self.length);
            return Err(Error::config("method.queue.length", reason));
        }
        Ok(self.length - self.length % batch.max(1))
    }
}

impl MethodConfig for SwavConfig {
    fn name(&self) -> &'static str {
        "swav"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        for (key, value) in [("temperature", self.temperature), ("epsilon", self.epsilon)] {
            if !(value > 0.0 && value.is_finite()) {
                let reason = format!("must be above 0 and finite, got {value}");
                return Err(Error::config(format!("{at}.{key}"), reason));
            }
        }
        let least = [
            ("projector.hidden", self.projector.hidden, 1),
            ("projector.output", self.projector.output, 1),
            ("prototypes", self.prototypes, 2),
            ("views", self.views, 2),
            ("assigned", self.assigned, 1),
        ];
        for (key, value, least) in least {
            if value < least {
                return Err(Error::config(
                    format!("{at}.{key}"),
                    format!("must be at least {least}, got {value}"),
                ));
            }
        }
        if self.assigned > self.views {
            let reason = format!("{} of {} views cannot be assigned", self.assigned, self.views);
            return Err(Error::config(format!("{at}.assigned"), reason));
        }
        Ok(())
    }

    fn views(&self) -> usize {
        self.views
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        Ok(Box::new(Swav::new(self.clone(), seed, device)?))
    }
}
