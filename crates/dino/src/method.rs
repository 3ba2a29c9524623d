//! One step of DINO, as the training loop sees it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mode, Module, Noise, ParamStore};
use contrastive_core::state::Momentum;
use contrastive_core::train::{Branch, Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use crate::centre::Centre;
use crate::config::DinoConfig;
use crate::features;
use crate::loss::{dino_loss, entropy, teacher_probabilities};
use crate::model::DinoModel;
use crate::weights::{BACKBONE, LAST_LAYER};

/// DINO. Its state beyond the student's parameters is the teacher and the centre.
pub struct Dino {
    config: DinoConfig,
    params: ParamStore,
    student: DinoModel,
    momentum: Momentum,
    teacher: DinoModel,
    centre: Centre,
    /// The mean of the teacher's logits in this step, for the centre.
    pending: Option<Tensor>,
}

impl Dino {
    /// Fresh parameters drawn from `seed`; the teacher begins as the student does.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: DinoConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let student = DinoModel::student(&params.builder(), &config)?;
        let momentum = Momentum::new(device);
        let teacher = DinoModel::teacher(&momentum.builder(), &config)?;
        momentum.copy(&params)?;
        let centre = Centre::new(config.head.output, config.centre_momentum, device)?;
        Ok(Self { config, params, student, momentum, teacher, centre, pending: None })
    }

    /// The student's networks.
    pub fn student(&self) -> &DinoModel {
        &self.student
    }

    /// The teacher's networks.
    pub fn teacher(&self) -> &DinoModel {
        &self.teacher
    }

    /// c.
    pub fn centre(&self) -> &Centre {
        &self.centre
    }

    /// What the paper's linear probe is trained on, of the teacher, `[N, D]`: see [`features::linear_features`].
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn linear_features(&self, x: &Tensor) -> Result<Tensor> {
        features::linear_features(&self.teacher.backbone, x)
    }

    /// Where the teacher's class token looks, `[N, heads, h, w]` for images `[N, C, H, W]` and a grid of `h` by `w`
    /// patches: see [`features::attention_maps`].
    ///
    /// # Errors
    /// A backbone that is no vision transformer; shapes that do not fit.
    pub fn attention_maps(&self, x: &Tensor) -> Result<Tensor> {
        features::attention_maps(&self.teacher.backbone, x)
    }
}

impl Method for Dino {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        self.config.views()
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let views = batch.views.as_slice();
        if views.len() != self.config.views() {
            return Err(Error::shape("dino", format!("{} views", self.config.views()), &[views.len()]));
        }
        let n = batch.len();
        let of_view = |v: u64| batch.indices.iter().map(move |&sample| (sample, v));
        let rows = (0..views.len() as u64).flat_map(of_view).collect();
        let train = Mode::train(comm);
        let noisy = train.with_noise(Noise { seed: progress.seed, step: progress.step, rows });
        // The teacher sees the two global views only, with the statistics of the batch.
        let (h, t) = self.teacher.forward_views(&views[..2], &train.without_grad())?; // [2N, width], [2N, K]
        let (_, s) = self.student.forward_views(views, &noisy)?; // [VN, K]
        let temperature = self.config.teacher_temperature.at(progress.epoch);
        let p = teacher_probabilities(&t.logits, self.centre.value(), temperature)?; // [2N, K]
        let loss = dino_loss(&s.logits, &p, self.config.student_temperature)?;
        if self.config.centre {
            self.pending = Some(Centre::mean(&t.logits, comm)?);
        }
        let entropy = f64::from(entropy(&p)?.to_scalar::<f32>()?);
        let divergence = f64::from(loss.detach().to_scalar::<f32>()?) - entropy;
        let z = s.embeddings.detach();
        Ok(StepOutput {
            terms: vec![("teacher_entropy".into(), entropy), ("divergence".into(), divergence)],
            assignments: Some(p),
            features: Some(h.narrow(0, 0, n)?),
            ..StepOutput::new(loss, vec![z.narrow(0, 0, n)?, z.narrow(0, n, n)?])
        })
    }

    fn frozen(&self, parameter: &str, progress: &Progress) -> bool {
        progress.epoch < self.config.freeze_last_layer && parameter.starts_with(LAST_LAYER)
    }

    fn after_update(&mut self, progress: &Progress) -> Result<()> {
        if let Some(mean) = self.pending.take() {
            self.centre.update(&mean)?;
        }
        self.momentum.update(&self.params, self.config.momentum_at(progress))
    }

    fn branch(&self) -> Branch {
        Branch::Teacher
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.teacher.backbone.forward(x, &Mode::eval())
    }

    fn backbone(&self) -> Vec<(String, Tensor)> {
        self.momentum.params().tensors_under(BACKBONE)
    }

    fn load_backbone(&mut self, tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        self.momentum.params().load_under(BACKBONE, tensors, source)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = self.momentum.state();
        state.extend(self.centre.state());
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        // The centre first: it checks, and the teacher's load checks everything before it changes anything.
        self.centre.load_state(state)?;
        self.momentum.load_state(state)
    }
}
