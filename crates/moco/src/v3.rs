//! One step of MoCo v3, as the training loop sees it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::nn::{Mlp, Mode, Module, ParamStore};
use contrastive_core::optim::cosine;
use contrastive_core::state::Momentum;
use contrastive_core::train::{Method, Progress, StepOutput, contrast_views};
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
        Ok(Self { config, params, base, predictor, momentum, key })
    }

    /// Features `[2n, width]` and queries `[2n, D]` of both views `[n, C, H, W]`, one view at a time: batch norm never
    /// sees both.
    fn encode(&self, x1: &Tensor, x2: &Tensor, mode: &Mode) -> Result<(Tensor, Tensor)> {
        let encode = |x: &Tensor| -> Result<(Tensor, Tensor)> {
            let h = self.base.backbone.forward(x, mode)?;
            let z = self.base.head.forward(&h, mode)?;
            let q = match &self.predictor {
                Some(predictor) => predictor.forward(&z, mode)?,
                None => z,
            };
            Ok((h, q))
        };
        let ((h1, q1), (h2, q2)) = (encode(x1)?, encode(x2)?);
        Ok((Tensor::cat(&[h1, h2], 0)?, Tensor::cat(&[q1, q2], 0)?))
    }

    /// The keys `[N, D]` of both views, in the same chunks as the queries.
    fn keys(&self, views: [&Tensor; 2], comm: &Comm) -> Result<[Tensor; 2]> {
        let mode = Mode::train(comm).without_grad();
        let n = views[0].dim(0)?;
        let rows = self.config.chunk.unwrap_or(n).min(n);
        let mut keys = [Vec::new(), Vec::new()];
        for at in (0..n).step_by(rows) {
            for (keys, x) in keys.iter_mut().zip(views) {
                keys.push(self.key.forward(&x.narrow(0, at, rows)?, &mode)?);
            }
        }
        Ok([Tensor::cat(&keys[0], 0)?, Tensor::cat(&keys[1], 0)?])
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
        let encode = |x1: &Tensor, x2: &Tensor, mode: &Mode| self.encode(x1, x2, mode);
        contrast_views(self.config.chunk, &self.params, [x1, x2], comm, encode, |q1, q2| {
            let [k1, k2] = self.keys([x1, x2], comm)?;
            let first = v3_loss(q1, &k2, self.config.temperature, comm)?;
            let second = v3_loss(q2, &k1, self.config.temperature, comm)?;
            let accuracy = ((first.accuracy + second.accuracy)? / 2.0)?.to_scalar::<f32>()?;
            Ok(StepOutput {
                terms: vec![("contrastive_accuracy".into(), f64::from(accuracy))],
                ..StepOutput::new((first.loss + second.loss)?, vec![q1.detach(), k2])
            })
        })
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
