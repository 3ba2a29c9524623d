//! A classifier, and one that learns from another.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::loss::{cross_entropy, estimate_z, nce};
use contrastive_core::nn::{
    BACKBONE, Backbone, BackboneConfig, Builder, Encoder, Linear, Mode, Module, ParamStore,
};
use contrastive_core::state::MemoryBank;
use contrastive_core::tensor::l2_normalize;
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use super::config::CrdConfig;
use super::loss::distillation;
use super::negatives::OtherClasses;

/// A backbone with a linear classifier.
#[derive(Debug)]
pub struct Classifier {
    params: ParamStore,
    backbone: Backbone,
    classifier: Linear,
}

impl Classifier {
    /// Fresh parameters under `backbone.*` and `classifier.*` of `params`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(params: &ParamStore, config: &BackboneConfig, classes: usize) -> Result<Self> {
        let b = params.builder();
        let backbone = Backbone::new(&b.pp(BACKBONE), config)?;
        let classifier = Linear::torch_default(&b.pp("classifier"), backbone.width(), classes)?;
        Ok(Self { params: params.clone(), backbone, classifier })
    }

    /// Features `[N, width]` and logits `[N, classes]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, mode: &Mode) -> Result<(Tensor, Tensor)> {
        let features = self.backbone.forward(x, mode)?;
        let logits = self.classifier.forward(&features, mode)?;
        Ok((features, logits))
    }

    /// Its parameters.
    pub fn params(&self) -> &ParamStore {
        &self.params
    }
}

/// What a teacher brings: itself and, for the contrast, both embeddings and both banks.
struct Lesson {
    teacher: Arc<Classifier>,
    embed: Option<[Linear; 2]>,
    others: OtherClasses,
    banks: Vec<MemoryBank>,
    /// Of the student's embedding against the teacher's bank, and the other way.
    z: [Option<f32>; 2],
    pending: Option<Pending>,
}

/// What a step brought for the state: samples of all ranks, both sides' embeddings, the constants.
struct Pending {
    samples: Vec<u64>,
    features: [Tensor; 2],
    z: [Option<f32>; 2],
}

/// The names of both sides' banks; the student's comes first.
const BANKS: [&str; 2] = ["bank.student", "bank.teacher"];
/// The constants in the state.
const Z: &str = "z";

/// A student with its teacher, or a classifier without one.
pub struct Crd {
    config: CrdConfig,
    seed: u64,
    student: Arc<Classifier>,
    lesson: Option<Lesson>,
}

impl Crd {
    /// A student with fresh parameters drawn from `seed`. `labels` are those of all training samples in order; they and
    /// the teacher are looked at only where the terms need one.
    ///
    /// # Errors
    /// Settings out of range, terms that need a teacher where there is none.
    pub fn new(
        config: CrdConfig,
        teacher: Option<Arc<Classifier>>,
        labels: &[u32],
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let student = Arc::new(Classifier::new(&params, &config.backbone, config.classes)?);
        let lesson = match (config.terms.need_a_teacher(), teacher) {
            (false, _) => None,
            (true, None) => return Err(Error::config("method.terms", "a teacher is needed")),
            (true, Some(teacher)) => {
                let b: Builder = params.builder().pp("embed");
                let widths = [student.backbone.width(), teacher.backbone.width()];
                let linear = |name, width| Linear::torch_default(&b.pp(name), width, config.output);
                let embed = match config.terms.contrast > 0.0 {
                    true => Some([linear("student", widths[0])?, linear("teacher", widths[1])?]),
                    false => None,
                };
                let others = OtherClasses::new(labels, config.classes)?;
                Some(Lesson { teacher, embed, others, banks: Vec::new(), z: [None; 2], pending: None })
            }
        };
        Ok(Self { config, seed, student, lesson })
    }

    /// The network that learns: a teacher for another, once it is trained.
    pub fn student(&self) -> Arc<Classifier> {
        self.student.clone()
    }
}

impl Lesson {
    /// `L(S→T) + L(T→S)` of unit embeddings, and both constants.
    fn contrast(
        &self,
        config: &CrdConfig,
        embedded: &[Tensor; 2],
        samples: &[u64],
        comm: &Comm,
        progress: &Progress,
    ) -> Result<(Tensor, [Option<f32>; 2])> {
        let [own, other] = self.banks.as_slice() else {
            return Err(Error::data("crd", "there are no memory banks yet: `prepare` makes them"));
        };
        own.gather(samples)?; // refuses samples beyond the banks
        let rows = self.others.rows(samples, config.negatives, progress, embedded[0].device())?;
        let (mut z, mut losses) = (self.z, Vec::with_capacity(2));
        // Banks cross.
        for (side, bank) in [(0, other), (1, own)] {
            let (x, t) = (&embedded[side], config.temperature);
            let constant = match z[side] {
                Some(z) => z,
                None => estimate_z(x, bank.rows(), &rows, t, comm)?,
            };
            z[side] = Some(constant);
            losses.push(nce(x, bank.rows(), &rows, t, constant)?.loss);
        }
        Ok(((&losses[0] + &losses[1])?, z))
    }
}

impl Method for Crd {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        1
    }

    fn params(&self) -> &ParamStore {
        &self.student.params
    }

    fn prepare(&mut self, samples: u64) -> Result<()> {
        if let Some(lesson) = &mut self.lesson
            && lesson.embed.is_some()
        {
            let (size, device) = ([samples as usize, self.config.output], self.student.params.device());
            let make = |name| MemoryBank::new(name, size, self.seed, &device);
            lesson.banks = BANKS.into_iter().map(make).collect::<Result<_>>()?;
        }
        Ok(())
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let ([x], Some(labels)) = (batch.views.as_slice(), batch.labels.as_deref()) else {
            return Err(Error::data("crd", "a step takes one view of labelled samples"));
        };
        let (mode, terms) = (Mode::train(comm), self.config.terms);
        let (features, logits) = self.student.forward(x, &mode)?;
        let mut loss = (cross_entropy(&logits, labels)? * terms.labels)?;
        let mut parts = Vec::new();
        if let Some(lesson) = &mut self.lesson {
            let (taught, target) = lesson.teacher.forward(x, &Mode::eval())?;
            if terms.logits > 0.0 {
                let term = distillation(&logits, &target, terms.logits_temperature)?;
                parts.push(("logits".to_string(), scalar(&term)?));
                loss = (loss + (term * terms.logits)?)?;
            }
            if let Some(embed) = &lesson.embed {
                let of = |side: usize, x: &Tensor| l2_normalize(&embed[side].forward(x, &mode)?);
                let embedded = [of(0, &features)?, of(1, &taught.detach())?];
                let (term, z) = lesson.contrast(&self.config, &embedded, &batch.indices, comm, progress)?;
                parts.push(("contrast".to_string(), scalar(&term)?));
                loss = (loss + (term * terms.contrast)?)?;
                let own: Vec<u32> = batch.indices.iter().map(|&sample| sample as u32).collect();
                let own = comm.all_gather(&Tensor::from_vec(own, batch.len(), x.device())?)?;
                let samples = own.to_vec1::<u32>()?.into_iter().map(u64::from).collect();
                let [a, b] = &embedded;
                let features = [comm.all_gather(&a.detach())?, comm.all_gather(&b.detach())?];
                lesson.pending = Some(Pending { samples, features, z });
            }
        }
        Ok(StepOutput {
            terms: parts,
            features: Some(features.detach()),
            ..StepOutput::new(loss, vec![features.detach()])
        })
    }

    fn after_update(&mut self, _progress: &Progress) -> Result<()> {
        if let Some(lesson) = &mut self.lesson
            && let Some(Pending { samples, features, z }) = lesson.pending.take()
        {
            for (bank, features) in lesson.banks.iter_mut().zip(&features) {
                bank.update(&samples, features, self.config.bank_momentum)?;
            }
            lesson.z = z;
        }
        Ok(())
    }

    /// The student's logits.
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.student.forward(x, &Mode::eval())?.1)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let Some(lesson) = &self.lesson else { return Ok(Vec::new()) };
        let mut state: Vec<(String, Tensor)> = lesson.banks.iter().flat_map(MemoryBank::state).collect();
        let z = lesson.z.map(|z| z.unwrap_or(-1.0));
        state.push((Z.to_string(), Tensor::new(&z, &Device::Cpu)?));
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let Some(lesson) = &mut self.lesson else { return Ok(()) };
        let z = state.get(Z).ok_or_else(|| Error::data(Z, "missing in the saved state"))?;
        if z.dims() != [2] {
            return Err(Error::shape("saved state", format!("[2] for `{Z}`"), z.dims()));
        }
        let z = z.to_vec1::<f32>()?;
        for bank in &mut lesson.banks {
            bank.load_state(state)?;
        }
        lesson.z = [z[0], z[1]].map(|z| (z > 0.0).then_some(z));
        lesson.pending = None;
        Ok(())
    }
}

fn scalar(x: &Tensor) -> Result<f64> {
    Ok(f64::from(x.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?))
}
