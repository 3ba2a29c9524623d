//! The paper's supervised baseline: the same networks and a linear layer on every context, trained end to end.

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::loss::cross_entropy;
use contrastive_core::nn::{Linear, Mode, Module, ParamStore};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use super::config::SpeechConfig;
use super::model::SpeechModel;
use super::probes::LabelOf;
use super::recordings::Recordings;
use super::windows::Scale;

/// Prefix of the classifier in the parameter store.
pub const CLASSIFIER: &str = "classifier";

/// Networks and a classifier of every frame. Batches have two views: windows `[N, 1, S]` and the label of each frame
/// `[N, T]` ([`super::Windows::labelled`]).
pub struct Supervised {
    params: ParamStore,
    model: SpeechModel,
    classifier: Linear,
    classes: usize,
}

impl Supervised {
    /// Fresh parameters drawn from `seed`. The predictors are there as in CPC, and get no gradient.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: &SpeechConfig, classes: usize, seed: u64, device: &Device) -> Result<Self> {
        if classes < 2 {
            return Err(Error::config("classes", format!("must be at least 2, got {classes}")));
        }
        let params = ParamStore::new(seed, device);
        let model = SpeechModel::new(&params.builder(), config)?;
        let classifier = Linear::torch_default(&params.builder().pp(CLASSIFIER), model.width(), classes)?;
        Ok(Self { params, model, classifier, classes })
    }

    /// The networks.
    pub fn model(&self) -> &SpeechModel {
        &self.model
    }

    fn scores(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let contexts = self.model.codes(x, mode)?.contexts;
        self.classifier.forward(&contexts.flatten(0, 1)?, mode)
    }

    /// The share of labelled frames of whole recordings that are classified rightly.
    ///
    /// # Errors
    /// Recordings too short for a frame; no labelled frame at all.
    pub fn accuracy(&self, recordings: &Recordings, scale: Scale, label: LabelOf) -> Result<f64> {
        let (mut right, mut all) = (0usize, 0usize);
        for recording in recordings.all() {
            let samples = scale.apply(&recording.samples);
            let x = Tensor::from_vec(samples, (1, 1, recording.samples.len()), &self.params.device())?;
            let best = self.scores(&x, &Mode::eval())?.argmax(1)?.to_vec1::<u32>()?;
            for (t, best) in best.into_iter().enumerate() {
                if let Some(label) = label(recording, self.model.encoder.config().centre(t)) {
                    all += 1;
                    right += usize::from(best == label);
                }
            }
        }
        if all == 0 {
            return Err(Error::data("supervised accuracy", "no frame has a label"));
        }
        Ok(right as f64 / all as f64)
    }
}

impl Method for Supervised {
    fn name(&self) -> &str {
        "cpc-speech-supervised"
    }

    fn views(&self) -> usize {
        2
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, _progress: &Progress) -> Result<StepOutput> {
        let [x, labels] = batch.views.as_slice() else {
            return Err(Error::shape("supervised", "2 views", &[batch.views.len()]));
        };
        let scores = self.scores(x, &Mode::train(comm))?;
        let labels = labels.flatten_all()?.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
        if labels.len() != scores.dim(0)? {
            return Err(Error::shape("frame labels", format!("{}", scores.dim(0)?), &[labels.len()]));
        }
        let known: Vec<usize> = (0..labels.len()).filter(|&i| labels[i] >= 0.0).collect();
        let wanted: Vec<u32> = known.iter().map(|&i| labels[i] as u32).collect();
        if let Some(label) = wanted.iter().find(|&&label| label as usize >= self.classes) {
            let reason = format!("label {label} is out of range for {} classes", self.classes);
            return Err(Error::data("frame labels", reason));
        }
        let (loss, accuracy) = if known.is_empty() {
            ((scores.sum_all()? * 0.0)?, 0.0)
        } else {
            let rows: Vec<u32> = known.iter().map(|&i| i as u32).collect();
            let rows = Tensor::from_vec(rows, known.len(), scores.device())?;
            let scores = scores.index_select(&rows, 0)?;
            let best = scores.detach().argmax(1)?.to_vec1::<u32>()?;
            let right = best.iter().zip(&wanted).filter(|(best, wanted)| best == wanted).count();
            (cross_entropy(&scores, &wanted)?, right as f64 / known.len() as f64)
        };
        Ok(StepOutput {
            terms: vec![("accuracy".to_string(), accuracy)],
            ..StepOutput::new(loss, Vec::new())
        })
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.model.codes(x, &Mode::eval())?.contexts.mean(1)?)
    }
}
