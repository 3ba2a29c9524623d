//! One step of SimCLR, as the training loop sees it.

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mode, Module, ParamStore};
use contrastive_core::train::{Method, Progress, StepOutput, contrast_views};
use contrastive_core::{Error, Result};

use crate::config::SimClrConfig;
use crate::loss::simclr_loss;
use crate::model::SimClrModel;

/// SimCLR, v1 and v2. It has no state beyond its parameters.
pub struct SimClr {
    config: SimClrConfig,
    params: ParamStore,
    model: SimClrModel,
}

impl SimClr {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: SimClrConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let model = SimClrModel::new(&params.builder(), &config)?;
        Ok(Self { config, params, model })
    }

    /// Backbone and head on both views in one batch: batch norm sees 2N images (algorithm 1). `[N, C, H, W]` each to
    /// features `[2N, width]` and embeddings `[2N, D]`.
    fn encode(&self, x1: &Tensor, x2: &Tensor, mode: &Mode) -> Result<(Tensor, Tensor)> {
        let h = self.model.backbone.forward(&Tensor::cat(&[x1, x2], 0)?, mode)?;
        let z = self.model.head.forward(&h, mode)?;
        Ok((h, z))
    }

    /// The networks.
    pub fn model(&self) -> &SimClrModel {
        &self.model
    }
}

impl Method for SimClr {
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
        let [x1, x2] = batch.views.as_slice() else {
            return Err(Error::shape("simclr", "2 views", &[batch.views.len()]));
        };
        let encode = |x1: &Tensor, x2: &Tensor, mode: &Mode| self.encode(x1, x2, mode);
        contrast_views(self.config.chunk, &self.params, [x1, x2], comm, encode, |z1, z2| {
            let out = simclr_loss(z1, z2, self.config.temperature, self.config.loss, comm)?;
            let accuracy = f64::from(out.accuracy.to_scalar::<f32>()?);
            Ok(StepOutput {
                terms: vec![("contrastive_accuracy".into(), accuracy)],
                ..StepOutput::new(out.loss, vec![z1.detach(), z2.detach()])
            })
        })
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.model.backbone.forward(x, &Mode::eval())
    }
}
