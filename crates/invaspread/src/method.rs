//! One step of InvaSpread, as the training loop sees it.

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mode, Module, ParamStore};
use contrastive_core::optim::Gradients;
use contrastive_core::train::{Chunks, Method, Progress, StepOutput, grad_cache};
use contrastive_core::{Error, Result};

use crate::config::InvaSpreadConfig;
use crate::loss::{InvaSpreadLoss, invaspread_loss};
use crate::model::InvaSpreadModel;

/// InvaSpread. It has no state beyond its parameters.
pub struct InvaSpread {
    config: InvaSpreadConfig,
    params: ParamStore,
    model: InvaSpreadModel,
    /// Of a step in chunks, until the loop asks for them.
    cached: Option<Gradients>,
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
        Ok(Self { config, params, model, cached: None })
    }

    /// Both views in one batch: batch norm sees 2B images. `[B, C, H, W]` each to features `[2B, width]` and unit
    /// embeddings `[2B, D]`.
    fn encode(&self, x1: &Tensor, x2: &Tensor, mode: &Mode) -> Result<(Tensor, Tensor)> {
        let h = self.model.backbone.forward(&Tensor::cat(&[x1, x2], 0)?, mode)?;
        let z = self.model.embed(&h, mode)?;
        Ok((h, z))
    }

    fn loss(&self, z1: &Tensor, z2: &Tensor, comm: &Comm) -> Result<InvaSpreadLoss> {
        invaspread_loss(z1, z2, self.config.temperature, self.config.negative_weight, comm)
    }

    fn step_at_once(&self, x1: &Tensor, x2: &Tensor, comm: &Comm) -> Result<StepOutput> {
        let n = x1.dim(0)?;
        let (h, z) = self.encode(x1, x2, &Mode::train(comm))?;
        let (z1, z2) = (z.narrow(0, 0, n)?, z.narrow(0, n, n)?);
        output(self.loss(&z1, &z2, comm)?, [&z1, &z2], &h.narrow(0, 0, n)?)
    }

    /// The same loss and gradient with the graph of one chunk at a time; [`Method::gradients`] hands it over.
    fn step_in_chunks(
        &mut self,
        x1: &Tensor,
        x2: &Tensor,
        chunks: Chunks,
        comm: &Comm,
    ) -> Result<StepOutput> {
        let mut features = Vec::new();
        let (_, (out, z1, z2), gradients) = grad_cache(
            &self.params,
            &Mode::train(comm),
            chunks.count(),
            |c, mode| {
                let (h, z) = self.encode(&chunks.part(x1, c)?, &chunks.part(x2, c)?, mode)?;
                if !mode.grad {
                    features.push(h.narrow(0, 0, chunks.rows())?.detach());
                }
                Ok(z)
            },
            |z| {
                let (z1, z2) = (chunks.view(z, 0, 2)?, chunks.view(z, 1, 2)?);
                let out = self.loss(&z1, &z2, comm)?;
                Ok((out.loss.clone(), (out, z1, z2)))
            },
        )?;
        self.cached = Some(gradients);
        output(out, [&z1, &z2], &Tensor::cat(&features, 0)?)
    }

    /// The networks.
    pub fn model(&self) -> &InvaSpreadModel {
        &self.model
    }
}

fn output(out: InvaSpreadLoss, z: [&Tensor; 2], features: &Tensor) -> Result<StepOutput> {
    let term = |name: &str, x: &Tensor| Ok::<_, Error>((name.to_string(), f64::from(x.to_scalar::<f32>()?)));
    Ok(StepOutput {
        loss: out.loss,
        terms: vec![
            term("contrastive_accuracy", &out.accuracy)?,
            term("invariant", &out.positive)?,
            term("spreading", &out.negative)?,
        ],
        embeddings: z.map(Tensor::detach).to_vec(),
        assignments: None,
        features: Some(features.detach()),
    })
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
        match Chunks::of(self.config.chunk, x1.dim(0)?)? {
            Some(chunks) => self.step_in_chunks(x1, x2, chunks, comm),
            None => self.step_at_once(x1, x2, comm),
        }
    }

    fn gradients(&mut self, loss: &Tensor) -> Result<Gradients> {
        match self.cached.take() {
            Some(gradients) => Ok(gradients),
            None => Gradients::of(&self.params, loss),
        }
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.model.backbone.forward(x, &Mode::eval())
    }
}
