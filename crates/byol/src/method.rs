//! One step of BYOL, as the training loop sees it.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mlp, Mode, Module, ParamStore};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::state::Momentum;
use contrastive_core::train::{Method, Progress, StepOutput, average_chunks};
use contrastive_core::{Error, Result};

use crate::config::{ByolConfig, TargetInit};
use crate::loss::byol_loss;
use crate::model::{Network, predictor};

/// BYOL. Its state beyond its parameters is the target network.
pub struct Byol {
    config: ByolConfig,
    params: ParamStore,
    online: Network,
    predictor: Option<Mlp>,
    momentum: Momentum,
    target: Network,
}

impl Byol {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: ByolConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let online = Network::new(&params.builder(), &config)?;
        let predictor = predictor(&params.builder(), &config)?;
        let momentum = Momentum::new(device);
        let target = Network::new(&momentum.builder(), &config)?;
        match config.target {
            TargetInit::Copy => momentum.copy(&params)?,
            TargetInit::Fresh => {
                let other = Key::new(seed, Purpose::State).name("target").stream().bits();
                let fresh = ParamStore::new(other, device);
                Network::new(&fresh.builder(), &config)?;
                momentum.copy(&fresh)?;
            }
        }
        Ok(Self { config, params, online, predictor, momentum, target })
    }

    /// The online network without the predictor.
    pub fn online(&self) -> &Network {
        &self.online
    }

    /// The target network.
    pub fn target(&self) -> &Network {
        &self.target
    }

    /// Features `[N, width]`, projection and prediction `[N, D]` of one view by the online network.
    fn predict(&self, x: &Tensor, mode: &Mode) -> Result<[Tensor; 3]> {
        let h = self.online.backbone.forward(x, mode)?;
        let z = self.online.projector.forward(&h, mode)?;
        let q = match &self.predictor {
            Some(predictor) => predictor.forward(&z, mode)?,
            None => z.clone(),
        };
        Ok([h, z, q])
    }

    fn step_at_once(&self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let [x1, x2] = batch.views.as_slice() else {
            return Err(Error::shape("byol", "2 views", &[batch.views.len()]));
        };
        // Each view is a batch of its own to batch norm.
        let mode = Mode::train(comm);
        let [h1, z1, q1] = self.predict(x1, &mode)?;
        let [_, z2, q2] = self.predict(x2, &mode)?;
        // The target network normalises by its batch too, and is no part of the graph.
        let mode = mode.without_grad();
        let (t1, t2) = (self.target.forward(x1, &mode)?, self.target.forward(x2, &mode)?); // [N, D]
        Ok(StepOutput {
            terms: vec![("momentum".into(), self.config.momentum_at(progress))],
            features: Some(h1.detach()),
            ..StepOutput::new(
                byol_loss([&q1, &q2], [&t1, &t2], self.config.loss)?,
                vec![z1.detach(), z2.detach()],
            )
        })
    }
}

impl Method for Byol {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        self.config.views()
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        average_chunks(self.config.chunk, &self.params, batch, |batch| {
            self.step_at_once(batch, comm, progress)
        })
    }

    /// `ξ = τ ξ + (1 − τ) θ` with the θ that the optimiser has just made (algorithm 1). Running statistics are not
    /// averaged: the target network gathers its own.
    fn after_update(&mut self, progress: &Progress) -> Result<()> {
        self.momentum.update(&self.params, self.config.momentum_at(progress))
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.online.backbone.forward(x, &Mode::eval())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.momentum.state())
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.momentum.load_state(state)
    }
}
