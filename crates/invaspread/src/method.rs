//! One step of InvaSpread, as the training loop sees it.

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mode, Module, ParamStore};
use contrastive_core::train::{Method, Progress, StepOutput, contrast_views};
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

    /// Both views in one batch: batch norm sees 2B images. `[B, C, H, W]` each to features `[2B, width]` and unit
    /// embeddings `[2B, D]`.
    fn encode(&self, x1: &Tensor, x2: &Tensor, mode: &Mode) -> Result<(Tensor, Tensor)> {
        let h = self.model.backbone.forward(&Tensor::cat(&[x1, x2], 0)?, mode)?;
        let z = self.model.embed(&h, mode)?;
        Ok((h, z))
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
        let encode = |x1: &Tensor, x2: &Tensor, mode: &Mode| self.encode(x1, x2, mode);
        contrast_views(self.config.chunk, &self.params, [x1, x2], comm, encode, |z1, z2| {
            let out = invaspread_loss(z1, z2, self.config.temperature, self.config.negative_weight, comm)?;
            let term =
                |name: &str, x: &Tensor| Ok::<_, Error>((name.to_string(), f64::from(x.to_scalar::<f32>()?)));
            Ok(StepOutput {
                terms: vec![
                    term("contrastive_accuracy", &out.accuracy)?,
                    term("invariant", &out.positive)?,
                    term("spreading", &out.negative)?,
                ],
                ..StepOutput::new(out.loss, vec![z1.detach(), z2.detach()])
            })
        })
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.model.backbone.forward(x, &Mode::eval())
    }
}
