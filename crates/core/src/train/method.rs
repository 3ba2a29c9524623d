//! What the loop knows of a method.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;

use crate::Result;
use crate::data::Batch;
use crate::dist::Comm;
use crate::nn::{BACKBONE, ParamStore};
use crate::optim::Gradients;
use crate::progress::Progress;

/// Which network is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Branch {
    /// The trained network (SimCLR, MoCo's query encoder, BYOL's online network).
    Online,
    /// The momentum network (BYOL's target, MoCo's key encoder).
    Target,
    /// DINO's teacher.
    Teacher,
}

impl Branch {
    /// The name in manifests and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Target => "target",
            Self::Teacher => "teacher",
        }
    }
}

/// What a step gives back.
#[derive(Debug)]
pub struct StepOutput {
    /// The scalar to differentiate.
    pub loss: Tensor,
    /// Its gradients, where the step has made them itself, chunk by chunk ([`crate::train::average_chunks`]).
    pub gradients: Option<Gradients>,
    /// Further named scalars for the log (accuracy of the pretext task, parts of the loss).
    pub terms: Vec<(String, f64)>,
    /// Embeddings of the batch, one tensor `[N, D]` per view, cut from the graph: what the collapse instruments look
    /// at.
    pub embeddings: Vec<Tensor>,
    /// Where the method compares distributions: those of the batch, `[M, K]`, cut from the graph. The collapse
    /// instruments look at what they say of their samples.
    pub assignments: Option<Tensor>,
    /// Backbone features `[N, width]` of the first view, cut from the graph, for the online probe.
    pub features: Option<Tensor>,
}

impl StepOutput {
    /// A loss, and embeddings `[N, D]` of each view, cut from the graph; nothing of the rest.
    pub fn new(loss: Tensor, embeddings: Vec<Tensor>) -> Self {
        Self { loss, gradients: None, terms: Vec::new(), embeddings, assignments: None, features: None }
    }

    /// The gradients of `params`: those that the step brought, or the backward pass of its loss.
    ///
    /// # Errors
    /// An operation without a backward pass, a rank that is gone.
    pub fn take_gradients(&mut self, params: &ParamStore) -> Result<Gradients> {
        match self.gradients.take() {
            Some(gradients) => Ok(gradients),
            None => Gradients::of(params, &self.loss),
        }
    }
}

/// A self-supervised method. Object-safe; the loop holds a `&mut dyn Method`.
pub trait Method: Send {
    /// The name in tables (`simclr`, `moco-v1`).
    fn name(&self) -> &str;

    /// How many views of each sample a batch must bring.
    fn views(&self) -> usize;

    /// Trained parameters and their buffers. Momentum copies are [`Method::state`], not parameters.
    fn params(&self) -> &ParamStore;

    /// Called once, before anything is restored, with the number of samples in the data: memory banks are made here.
    ///
    /// # Errors
    /// Whatever the method's state refuses.
    fn prepare(&mut self, _samples: u64) -> Result<()> {
        Ok(())
    }

    /// Called before the forward pass of every step (prototype normalisation, an EMA that precedes the keys).
    ///
    /// # Errors
    /// Whatever the method's state refuses.
    fn before_step(&mut self, _progress: &Progress) -> Result<()> {
        Ok(())
    }

    /// The forward pass and the loss on one batch of views. Never touches the optimiser.
    ///
    /// # Errors
    /// Shapes that do not fit, a rank that is gone.
    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput>;

    /// Whether this parameter stays as it is in this step, weight decay included (SwAV's prototypes and DINO's last layer
    /// at the start of training).
    fn frozen(&self, _parameter: &str, _progress: &Progress) -> bool {
        false
    }

    /// Called after every optimiser update (EMA, queue, centre, in the paper's order). What [`Method::step`] brought for
    /// the method's state belongs here: a step that ends in an error then has changed nothing, and no tensor that the
    /// backward pass still needs is written over.
    ///
    /// # Errors
    /// Whatever the method's state refuses.
    fn after_update(&mut self, _progress: &Progress) -> Result<()> {
        Ok(())
    }

    /// The branch that [`Method::features`] runs and that is exported.
    fn branch(&self) -> Branch {
        Branch::Online
    }

    /// Backbone features `[N, width]` of a batch `[N, C, H, W]` in evaluation mode, by [`Method::branch`].
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn features(&self, x: &Tensor) -> Result<Tensor>;

    /// The tensors of the evaluated backbone with public names (torchvision's, timm's): what stands under [`BACKBONE`]
    /// in [`Method::params`], unless another branch is evaluated.
    fn backbone(&self) -> Vec<(String, Tensor)> {
        self.params().tensors_under(BACKBONE)
    }

    /// Takes back what [`Method::backbone`] gave. `source` is named in errors.
    ///
    /// # Errors
    /// [`crate::Error::Weights`] listing every missing, unexpected and mis-shaped name.
    fn load_backbone(&mut self, tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        self.params().load_under(BACKBONE, tensors, source)
    }

    /// All state beyond [`Method::params`] by name: momentum copies, queues, banks, centres.
    ///
    /// # Errors
    /// A tensor that cannot be read back from its device.
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// Takes back what [`Method::state`] gave.
    ///
    /// # Errors
    /// A missing name or another shape.
    fn load_state(&mut self, _state: &HashMap<String, Tensor>) -> Result<()> {
        Ok(())
    }
}
