//! What a run will take, before it is begun.

use super::{MethodConfig, RunConfig};
use crate::augment::{Op, Recipe};
use crate::optim::OptimizerConfig;
use crate::{Error, Result};

/// Which views pass which network in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passes {
    /// Views that pass the trained backbone, forward and backward.
    pub trained: Vec<usize>,
    /// Views that pass a momentum encoder, forward only.
    pub momentum: Vec<usize>,
}

/// By arithmetic over the backbone: heads, losses and augmentation are left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunCost {
    /// Optimiser steps.
    pub steps: u64,
    /// Floating-point operations of a step, forward and backward.
    pub step_flops: f64,
    /// Bytes that a step needs on all ranks together: activations kept for the backward pass, parameters, gradients and
    /// moments (once).
    pub bytes: f64,
}

impl<M: MethodConfig> RunConfig<M> {
    /// The cost of the run on `samples` samples.
    ///
    /// # Errors
    /// A view whose size depends on the image.
    pub fn cost(&self, samples: u64) -> Result<RunCost> {
        let sides = sides(&self.augment);
        let backbone = self.method.backbone();
        let of = |view: &usize| match sides.get(*view) {
            Some(Some(side)) => backbone.cost(*side),
            _ => Err(Error::config("augment.views", format!("the size of view {view} depends on the image"))),
        };
        let Passes { trained, momentum } = self.method.passes();
        let (mut flops, mut kept, mut parameters) = (0.0, 0.0, 0.0f64);
        for view in &trained {
            let cost = of(view)?;
            // The backward pass makes two products for every one of the forward pass.
            flops += 3.0 * cost.flops as f64;
            kept += cost.kept as f64;
            parameters = cost.parameters as f64;
        }
        for view in &momentum {
            flops += of(view)?.flops as f64;
        }
        let moments = match &self.optim.optimizer {
            OptimizerConfig::AdamW(_) | OptimizerConfig::Adam(_) => 2.0,
            OptimizerConfig::Sgd(_) | OptimizerConfig::Lars(_) | OptimizerConfig::RmsProp(_) => 1.0,
        };
        let copies = 2.0 + moments + f64::from(u8::from(!momentum.is_empty()));
        let batch = self.train.batch_size as f64;
        Ok(RunCost {
            steps: self.train.epochs * (samples / self.train.batch_size as u64),
            step_flops: flops * batch,
            bytes: 4.0 * (kept * batch + copies * parameters),
        })
    }
}

/// The side of every view in pixels, where the recipe fixes it.
fn sides(recipe: &Recipe) -> Vec<Option<usize>> {
    let mut sides = Vec::new();
    for view in &recipe.views {
        let side = view.ops.iter().rev().find_map(|op| match op {
            Op::RandomResizedCrop { size, .. } | Op::CenterCrop { size } => Some(*size),
            _ => None,
        });
        sides.extend(std::iter::repeat_n(side, view.count));
    }
    sides
}
