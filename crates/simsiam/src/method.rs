//! One step of SimSiam, as the training loop sees it.

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mode, Module, ParamStore};
use contrastive_core::train::{Method, Progress, StepOutput, average_chunks};
use contrastive_core::{Error, Result};

use crate::config::SimSiamConfig;
use crate::loss::simsiam_loss;
use crate::model::SimSiamModel;

/// SimSiam. It has no state beyond its parameters.
pub struct SimSiam {
    config: SimSiamConfig,
    params: ParamStore,
    model: SimSiamModel,
}

impl SimSiam {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: SimSiamConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let model = SimSiamModel::new(&params.builder(), &config)?;
        Ok(Self { config, params, model })
    }

    /// The networks.
    pub fn model(&self) -> &SimSiamModel {
        &self.model
    }

    fn step_at_once(&self, batch: &Batch, comm: &Comm) -> Result<StepOutput> {
        let [x1, x2] = batch.views.as_slice() else {
            return Err(Error::shape("simsiam", "2 views", &[batch.views.len()]));
        };
        // Each view is a batch of its own to batch norm.
        let mode = Mode::train(comm);
        let [h1, z1, p1] = self.model.forward(x1, &mode)?;
        let [_, z2, p2] = self.model.forward(x2, &mode)?;
        let fixed = [z1.detach(), z2.detach()];
        let [t1, t2] = if self.config.stop_gradient { fixed.clone() } else { [z1, z2] };
        Ok(StepOutput {
            features: Some(h1.detach()),
            ..StepOutput::new(simsiam_loss([&p1, &p2], [&t1, &t2])?, fixed.into())
        })
    }
}

impl Method for SimSiam {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        self.config.views()
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, _progress: &Progress) -> Result<StepOutput> {
        average_chunks(self.config.chunk, &self.params, batch, |batch| self.step_at_once(batch, comm))
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.model.backbone.forward(x, &Mode::eval())
    }
}
