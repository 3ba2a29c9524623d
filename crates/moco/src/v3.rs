//! One step of MoCo v3, as the training loop sees it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::nn::{Mlp, Mode, Module, ParamStore};
use contrastive_core::optim::{Gradients, cosine};
use contrastive_core::state::Momentum;
use contrastive_core::train::{Chunks, Method, Progress, StepOutput, grad_cache};
use contrastive_core::{Error, Result};

use crate::config::V3Config;
use crate::loss::v3_loss;
use crate::model::{MocoEncoder, predictor};
use crate::weights::{BACKBONE, is_fixed};

/// MoCo v3. Its state is the momentum encoder.
pub struct MocoV3 {
    config: V3Config,
    params: ParamStore,
    base: MocoEncoder,
    predictor: Option<Mlp>,
    momentum: Momentum,
    key: MocoEncoder,
    /// Of a step in chunks, until the loop asks for them.
    cached: Option<Gradients>,
}

impl MocoV3 {
    /// Fresh parameters drawn from `seed`. Settings are those that
    /// [`contrastive_core::experiment::MethodConfig::check`] let pass.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(config: V3Config, seed: u64, device: &Device) -> Result<Self> {
        let params = ParamStore::new(seed, device);
        let base = MocoEncoder::v3(&params.builder(), &config)?;
        let predictor =
            if config.heads.predictor { Some(predictor(&params.builder(), &config.heads)?) } else { None };
        let momentum = Momentum::new(device);
        let key = MocoEncoder::v3(&momentum.builder(), &config)?;
        momentum.copy(&params)?;
        Ok(Self { config, params, base, predictor, momentum, key, cached: None })
    }

    /// Features `[N, width]` of a view and its queries `[N, D]`.
    fn queries(&self, x: &Tensor, mode: &Mode) -> Result<[Tensor; 2]> {
        let h = self.base.backbone.forward(x, mode)?;
        let z = self.base.head.forward(&h, mode)?;
        let q = match &self.predictor {
            Some(predictor) => predictor.forward(&z, mode)?,
            None => z,
        };
        Ok([h, q])
    }

    /// The keys `[N, D]` of both views.
    fn keys(&self, x: [&Tensor; 2], mode: &Mode) -> Result<[Tensor; 2]> {
        let mode = mode.without_grad();
        Ok([self.key.forward(x[0], &mode)?, self.key.forward(x[1], &mode)?])
    }

    /// The two directions' losses, added, and the mean of their accuracies.
    fn loss(&self, q: [&Tensor; 2], k: [&Tensor; 2], comm: &Comm) -> Result<(Tensor, f64)> {
        let first = v3_loss(q[0], k[1], self.config.temperature, comm)?;
        let second = v3_loss(q[1], k[0], self.config.temperature, comm)?;
        let accuracy = ((first.accuracy + second.accuracy)? / 2.0)?.to_scalar::<f32>()?;
        Ok(((first.loss + second.loss)?, f64::from(accuracy)))
    }

    fn step_at_once(&self, x: [&Tensor; 2], comm: &Comm) -> Result<StepOutput> {
        // One view at a time: batch norm never sees both.
        let mode = Mode::train(comm);
        let [h1, q1] = self.queries(x[0], &mode)?;
        let [_, q2] = self.queries(x[1], &mode)?;
        let [k1, k2] = self.keys(x, &mode)?;
        let (loss, accuracy) = self.loss([&q1, &q2], [&k1, &k2], comm)?;
        Ok(output(loss, accuracy, &q1, k2, &h1))
    }

    /// The same loss and gradient with the graph of one chunk at a time; [`Method::gradients`] hands it over.
    fn step_in_chunks(&mut self, x: [&Tensor; 2], chunks: Chunks, comm: &Comm) -> Result<StepOutput> {
        let mode = Mode::train(comm);
        let part = |c| -> Result<[Tensor; 2]> { Ok([chunks.part(x[0], c)?, chunks.part(x[1], c)?]) };
        let (mut keys, mut features) = ([Vec::new(), Vec::new()], Vec::new());
        for c in 0..chunks.count() {
            let [x1, x2] = part(c)?;
            let [k1, k2] = self.keys([&x1, &x2], &mode)?;
            keys[0].push(k1);
            keys[1].push(k2);
        }
        let (k1, k2) = (Tensor::cat(&keys[0], 0)?, Tensor::cat(&keys[1], 0)?);
        let (loss, (accuracy, q1), gradients) = grad_cache(
            &self.params,
            &mode,
            chunks.count(),
            |c, mode| {
                let [x1, x2] = part(c)?;
                let [h1, q1] = self.queries(&x1, mode)?;
                let [_, q2] = self.queries(&x2, mode)?;
                if !mode.grad {
                    features.push(h1.detach());
                }
                Ok(Tensor::cat(&[q1, q2], 0)?)
            },
            |q| {
                let (q1, q2) = (chunks.view(q, 0, 2)?, chunks.view(q, 1, 2)?);
                let (loss, accuracy) = self.loss([&q1, &q2], [&k1, &k2], comm)?;
                Ok((loss, (accuracy, q1)))
            },
        )?;
        self.cached = Some(gradients);
        Ok(output(loss, accuracy, &q1, k2, &Tensor::cat(&features, 0)?))
    }
}

fn output(loss: Tensor, accuracy: f64, query: &Tensor, key: Tensor, features: &Tensor) -> StepOutput {
    StepOutput {
        loss,
        terms: vec![("contrastive_accuracy".into(), accuracy)],
        embeddings: vec![query.detach(), key],
        assignments: None,
        features: Some(features.detach()),
    }
}

impl Method for MocoV3 {
    fn name(&self) -> &str {
        "moco-v3"
    }

    fn views(&self) -> usize {
        2
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The momentum encoder moves before the keys are made, by an m that a cosine takes to 1.
    fn before_step(&mut self, progress: &Progress) -> Result<()> {
        let m = cosine(self.config.momentum, 1.0, progress.step as f64, progress.total_steps as f64);
        self.momentum.update(&self.params, m)
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, _progress: &Progress) -> Result<StepOutput> {
        let [x1, x2] = batch.views.as_slice() else {
            return Err(Error::shape("moco-v3", "2 views", &[batch.views.len()]));
        };
        match Chunks::of(self.config.chunk, x1.dim(0)?)? {
            Some(chunks) => self.step_in_chunks([x1, x2], chunks, comm),
            None => self.step_at_once([x1, x2], comm),
        }
    }

    fn gradients(&mut self, loss: &Tensor) -> Result<Gradients> {
        match self.cached.take() {
            Some(gradients) => Ok(gradients),
            None => Gradients::of(&self.params, loss),
        }
    }

    /// A transformer's patch projection and positions.
    fn frozen(&self, parameter: &str, _progress: &Progress) -> bool {
        self.config.transformer.is_some_and(|transformer| is_fixed(&transformer, parameter))
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.base.backbone.forward(x, &Mode::eval())
    }

    fn load_backbone(&mut self, tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        self.params.load_under(BACKBONE, tensors, source)?;
        self.momentum.copy(&self.params)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.momentum.state())
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.momentum.load_state(state)
    }
}
