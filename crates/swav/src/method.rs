//! One step of SwAV, as the training loop sees it.

use std::collections::{HashMap, HashSet};

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mode, Module, ParamStore};
use contrastive_core::tensor::l2_normalize;
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use crate::config::SwavConfig;
use crate::loss::swav_loss;
use crate::model::SwavModel;
use crate::queues::Queues;
use crate::sinkhorn::assign;
use crate::weights::{PROTOTYPES, PROTOTYPES_WEIGHT};

/// SwAV. Beside its parameters it has the queues.
pub struct Swav {
    config: SwavConfig,
    params: ParamStore,
    model: SwavModel,
    queues: Queues,
    /// The embeddings of the last step's assigned views, of all ranks, for the queues.
    pending: Option<Vec<Tensor>>,
}

impl Swav {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: SwavConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let model = SwavModel::new(&params.builder(), &config)?;
        let queues = Queues::new(config.queue, config.assigned, device);
        Ok(Self { config, params, model, queues, pending: None })
    }

    /// The networks.
    pub fn model(&self) -> &SwavModel {
        &self.model
    }

    /// Assignments `[N, K]` of the first views from all views' `scores` `[V·N, K]`.
    fn assignments(&self, scores: &Tensor, n: usize, comm: &Comm) -> Result<Vec<Tensor>> {
        let config = &self.config;
        let constant = Mode::eval();
        (0..config.assigned)
            .map(|view| {
                // By the prototypes of this step, not of the step that the embeddings come from.
                let queue = match self.queues.share(view, comm)? {
                    Some(z) => Some(self.model.prototypes.forward(&z, &constant)?),
                    None => None,
                };
                let own = scores.narrow(0, view * n, n)?;
                assign(&own, queue.as_ref(), config.epsilon, config.sinkhorn_iterations, comm)
            })
            .collect()
    }
}

impl Method for Swav {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        self.config.views()
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    /// Prototypes back to unit length, in place and outside of any graph.
    fn before_step(&mut self, _progress: &Progress) -> Result<()> {
        if let Some(prototypes) =
            self.params.get(PROTOTYPES_WEIGHT).filter(|_| self.config.normalize_prototypes)
        {
            prototypes.var.set(&l2_normalize(&prototypes.var.as_detached_tensor())?)?;
        }
        Ok(())
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let (views, n) = (&batch.views, batch.len());
        if views.len() != self.config.views {
            return Err(Error::shape("swav", format!("{} views", self.config.views), &[views.len()]));
        }
        self.config.queue.rounded(n * comm.size())?;
        let mode = Mode::train(comm);
        let h = self.model.features(views, &mode)?; // [V·N, width]
        // The head sees all views at once: also its batch norm.
        let z = self.model.embed(&h, &mode)?; // [V·N, D]
        let scores = self.model.prototypes.forward(&z, &mode)?; // [V·N, K]
        let assignments = self.assignments(&scores, n, comm)?;
        let loss = swav_loss(&scores, &assignments, self.config.temperature)?;
        let embeddings: Vec<Tensor> = (0..self.config.views)
            .map(|view| Ok(z.narrow(0, view * n, n)?.detach()))
            .collect::<Result<_>>()?;
        let queue = self.config.queue;
        self.pending = if queue.length > 0 && progress.epoch >= queue.start_epoch {
            let assigned = embeddings.iter().take(self.config.assigned);
            Some(assigned.map(|z| comm.all_gather(&z.contiguous()?)).collect::<Result<_>>()?)
        } else {
            None
        };
        let first = scores.narrow(0, 0, n)?;
        let terms = vec![("prototypes_used".to_string(), used(&first)?)];
        Ok(StepOutput {
            terms,
            features: Some(h.narrow(0, 0, n)?.detach()),
            ..StepOutput::new(loss, embeddings)
        })
    }

    fn frozen(&self, parameter: &str, progress: &Progress) -> bool {
        let of_prototypes = parameter.split('.').next() == Some(PROTOTYPES);
        of_prototypes && progress.step < self.config.freeze_steps
    }

    fn after_update(&mut self, _progress: &Progress) -> Result<()> {
        match self.pending.take() {
            Some(embeddings) => self.queues.push(&embeddings),
            None => Ok(()),
        }
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.model.backbone.forward(x, &Mode::eval())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.queues.state()
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.queues.load_state(state)
    }
}

/// The part of the prototypes that are the nearest of some sample of `scores` `[N, K]`: 1/K where all samples have the
/// same.
fn used(scores: &Tensor) -> Result<f64> {
    let nearest = scores.detach().argmax(1)?.to_vec1::<u32>()?;
    Ok(nearest.into_iter().collect::<HashSet<_>>().len() as f64 / scores.dim(1)? as f64)
}
