//! One step of InvaSpread, as the training loop sees it.

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mode, Module, ParamStore};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use crate::config::InvaSpreadConfig;
use crate::loss::invaspread_loss;
use crate::model::InvaSpreadModel;

/// InvaSpread. It has no state beyond its parameters.
pub struct InvaSpread {
    config: InvaSpreadConfig,
    params: ParamStore,
    model: InvaSpreadModel,
}

impl InvaSpread {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: InvaSpreadConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let model = InvaSpreadModel::new(&params.builder(), &config)?;
        Ok(Self { config, params, model })
    }

    /// The networks.
    pub fn model(&self) -> &InvaSpreadModel {
        &self.model
    }
}

impl Method for InvaSpread {
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
            return Err(Error::shape("invaspread", "2 views", &[batch.views.len()]));
        };
        // Both views in one batch: batch norm sees 2B images.
        let x = Tensor::cat(&[x1, x2], 0)?; // [2B, C, H, W]
        let n = x1.dim(0)?;
        let mode = Mode::train(comm);
        let h = self.model.backbone.forward(&x, &mode)?; // [2B, width]
        let z = self.model.embed(&h, &mode)?; // [2B, D]
        let (z1, z2) = (z.narrow(0, 0, n)?, z.narrow(0, n, n)?);
        let out = invaspread_loss(&z1, &z2, self.config.temperature, self.config.negative_weight, comm)?;
        let term =
            |name: &str, x: &Tensor| Ok::<_, Error>((name.to_string(), f64::from(x.to_scalar::<f32>()?)));
        Ok(StepOutput {
            loss: out.loss,
            terms: vec![
                term("contrastive_accuracy", &out.accuracy)?,
                term("invariant", &out.positive)?,
                term("spreading", &out.negative)?,
            ],
            embeddings: vec![z1.detach(), z2.detach()],
            assignments: None,
            features: Some(h.narrow(0, 0, n)?.detach()),
        })
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.model.backbone.forward(x, &Mode::eval())
    }
}
