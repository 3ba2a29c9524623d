//! One step of MoCo v1 and v2, as the training loop sees it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::loss::ContrastiveLoss;
use contrastive_core::nn::{Mode, Module, ParamStore};
use contrastive_core::state::{Momentum, Queue};
use contrastive_core::tensor::l2_normalize;
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use crate::config::QueueConfig;
use crate::loss::queue_loss;
use crate::model::MocoEncoder;
use crate::shuffle::{Shuffle, average_running_statistics};
use crate::weights::{BACKBONE, QUEUE};

/// MoCo v1 and v2. Its state is the key encoder and the queue.
pub struct Moco {
    name: &'static str,
    config: QueueConfig,
    params: ParamStore,
    query: MocoEncoder,
    momentum: Momentum,
    key: MocoEncoder,
    queue: Queue,
    /// The keys of the step, which enter the queue after the update.
    pending: Option<Tensor>,
}

/// One view as queries, the other as keys.
struct Direction {
    out: ContrastiveLoss,
    /// Features of this rank's queries, `[N, width]`.
    h: Tensor,
    /// This rank's queries, `[N, D]`.
    q: Tensor,
    /// All ranks' keys, `[R N, D]`.
    keys: Tensor,
}

impl Moco {
    /// Fresh parameters drawn from `seed`; `name` is the version's. Settings are those that
    /// [`contrastive_core::experiment::MethodConfig::check`] let pass.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(name: &'static str, config: QueueConfig, seed: u64, device: &Device) -> Result<Self> {
        let params = ParamStore::new(seed, device);
        let query = MocoEncoder::queue(&params.builder(), &config)?;
        let momentum = Momentum::new(device);
        let key = MocoEncoder::queue(&momentum.builder(), &config)?;
        momentum.copy(&params)?;
        let queue = Queue::random(QUEUE, [config.queue, config.head.output], seed, device)?;
        Ok(Self { name, config, params, query, momentum, key, queue, pending: None })
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The loss of queries from `x_q` and keys from `x_k`, each `[N, C, H, W]`, against the queue as it is.
    fn direction(
        &self,
        [x_q, x_k]: [&Tensor; 2],
        comm: &Comm,
        progress: &Progress,
        number: u64,
    ) -> Result<Direction> {
        let mode = Mode::train(comm);
        let h = self.query.backbone.forward(x_q, &mode)?; // [N, width]
        let q = l2_normalize(&self.query.head.forward(&h, &mode)?)?; // [N, D]
        let n = x_q.dim(0)?;
        let shuffle = if self.config.shuffle {
            Shuffle::new(n * comm.size(), progress, number)
        } else {
            Shuffle::none()
        };
        // Train mode: keys have batch statistics too, those of their shuffled neighbours.
        let k = self.key.forward(&shuffle.apply(x_k, comm)?, &mode.without_grad())?;
        let keys = shuffle.undo(&l2_normalize(&k)?, comm)?; // [R N, D]
        let own = keys.narrow(0, comm.rank() * n, n)?.contiguous()?;
        let out = queue_loss(&q, &own, self.queue.rows(), self.config.temperature)?;
        Ok(Direction { out, h: h.detach(), q: q.detach(), keys })
    }
}

impl Method for Moco {
    fn name(&self) -> &str {
        self.name
    }

    fn views(&self) -> usize {
        2
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    /// The key encoder moves before the keys are made. (The paper's pseudo-code moves it after the update before: the keys
    /// are the same.)
    fn before_step(&mut self, _progress: &Progress) -> Result<()> {
        self.momentum.update(&self.params, self.config.momentum)
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let [x1, x2] = batch.views.as_slice() else {
            return Err(Error::shape("moco", "2 views", &[batch.views.len()]));
        };
        let first = self.direction([x1, x2], comm, progress, 0)?;
        let (mut loss, mut accuracy) = (first.out.loss, f64::from(first.out.accuracy.to_scalar::<f32>()?));
        let mut keys = first.keys.clone();
        if self.config.symmetric {
            let second = self.direction([x2, x1], comm, progress, 1)?;
            loss = (loss + second.out.loss)?;
            accuracy = (accuracy + f64::from(second.out.accuracy.to_scalar::<f32>()?)) / 2.0;
            keys = Tensor::cat(&[&second.keys, &first.keys], 0)?;
        }
        average_running_statistics(&self.params, comm)?;
        average_running_statistics(self.momentum.params(), comm)?;
        self.pending = Some(keys);
        let n = x1.dim(0)?;
        Ok(StepOutput {
            terms: vec![("contrastive_accuracy".into(), accuracy)],
            features: Some(first.h),
            ..StepOutput::new(loss, vec![first.q, first.keys.narrow(0, comm.rank() * n, n)?])
        })
    }

    /// Keys enter the queue after the logits were made: a key would else be its own negative.
    fn after_update(&mut self, _progress: &Progress) -> Result<()> {
        match self.pending.take() {
            Some(keys) => self.queue.push(&keys),
            None => Ok(()),
        }
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.query.backbone.forward(x, &Mode::eval())
    }

    fn load_backbone(&mut self, tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        self.params.load_under(BACKBONE, tensors, source)?;
        self.momentum.copy(&self.params)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = self.momentum.state();
        state.extend(self.queue.state()?);
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.momentum.load_state(state)?;
        self.queue.load_state(state)
    }
}
