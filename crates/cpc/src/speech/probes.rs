//! What contexts know: probes for phones, speakers and words, beside other features of the same recordings.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use contrastive_core::eval::{Features, LinearConfig, Standardizer, evaluate_linear, metric};
use contrastive_core::loss::cross_entropy;
use contrastive_core::nn::{Mlp, MlpLayer, Mode, Module, ParamStore};
use contrastive_core::optim::{AdamConfig, Gradients, OptimizerConfig, ParamGroups};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::config::EncoderConfig;
use super::mfcc::Mfcc;
use super::model::SpeechModel;
use super::recordings::{Recording, Recordings};
use super::windows::Scale;

/// Something that gives a vector for every 10 ms of a recording.
pub trait FrameEncoder: Sync {
    /// Numbers in a vector.
    fn width(&self) -> usize;

    /// The vectors of a recording, row by row.
    ///
    /// # Errors
    /// A recording that is too short.
    fn frames(&self, recording: &Recording) -> Result<Vec<f32>>;

    /// The sample that vector `t` stands for.
    fn centre(&self, t: usize) -> usize;
}

/// The contexts of trained or fresh networks.
#[derive(Debug, Clone, Copy)]
pub struct Contexts<'a> {
    /// The networks.
    pub model: &'a SpeechModel,
    /// The scale of samples that they were trained on.
    pub scale: Scale,
}

impl Contexts<'_> {
    fn encoder(&self) -> &EncoderConfig {
        self.model.encoder.config()
    }
}

impl FrameEncoder for Contexts<'_> {
    fn width(&self) -> usize {
        self.model.width()
    }

    fn frames(&self, recording: &Recording) -> Result<Vec<f32>> {
        let samples = self.scale.apply(&recording.samples);
        let x = Tensor::from_vec(samples, (1, 1, recording.samples.len()), &Device::Cpu)?;
        Ok(self.model.codes(&x, &Mode::eval())?.contexts.flatten_all()?.to_vec1()?)
    }

    fn centre(&self, t: usize) -> usize {
        self.encoder().centre(t)
    }
}

impl FrameEncoder for Mfcc {
    fn width(&self) -> usize {
        Mfcc::width(self)
    }

    fn frames(&self, recording: &Recording) -> Result<Vec<f32>> {
        Ok(Mfcc::frames(self, &recording.samples))
    }

    fn centre(&self, t: usize) -> usize {
        160 * t + 80
    }
}

/// The label of a sample of a recording, where it has one.
pub type LabelOf = fn(&Recording, usize) -> Option<u32>;

/// The phone at a sample.
pub fn phone_of(recording: &Recording, sample: usize) -> Option<u32> {
    recording.phone(sample)
}

/// The speaker, at every sample there is.
pub fn speaker_of(recording: &Recording, sample: usize) -> Option<u32> {
    (sample < recording.samples.len()).then_some(recording.speaker)
}

/// What is said, at every sample there is.
pub fn word_of(recording: &Recording, sample: usize) -> Option<u32> {
    recording.word.filter(|_| sample < recording.samples.len())
}

/// Every `every`-th labelled frame of all recordings.
///
/// # Errors
/// Recordings that the encoder cannot take; no labelled frame at all.
pub fn labelled_frames(
    encoder: &dyn FrameEncoder,
    recordings: &Recordings,
    label: LabelOf,
    every: usize,
) -> Result<Features> {
    let width = encoder.width();
    let (mut data, mut labels) = (Vec::new(), Vec::new());
    let mut seen = 0;
    for recording in recordings.all() {
        for (t, frame) in encoder.frames(recording)?.chunks_exact(width).enumerate() {
            if let Some(label) = label(recording, encoder.centre(t)) {
                if seen % every.max(1) == 0 {
                    data.extend_from_slice(frame);
                    labels.push(label);
                }
                seen += 1;
            }
        }
    }
    Features::new("frames", data, width, labels)
}

/// The mean frame of each recording that has a label.
///
/// # Errors
/// As [`labelled_frames`].
pub fn mean_frames(encoder: &dyn FrameEncoder, recordings: &Recordings, label: LabelOf) -> Result<Features> {
    let width = encoder.width();
    let (mut data, mut labels) = (Vec::new(), Vec::new());
    for recording in recordings.all() {
        let Some(label) = label(recording, 0) else { continue };
        let frames = encoder.frames(recording)?;
        let count = (frames.len() / width).max(1) as f64;
        let mut sum = vec![0f64; width];
        for frame in frames.chunks_exact(width) {
            sum.iter_mut().zip(frame).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        data.extend(sum.iter().map(|sum| (sum / count) as f32));
        labels.push(label);
    }
    Features::new("recordings", data, width, labels)
}

/// How a probe is trained, on features standardised by the training set's mean and deviation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// Passes over the training set.
    pub epochs: usize,
    /// Every how many frames one is looked at, of the training and of the test set.
    pub every: usize,
    /// Width of the hidden layer; none for a linear probe.
    pub hidden: Option<usize>,
    /// Names the streams of initial weights and batch order.
    pub seed: u64,
}

impl Default for ProbeConfig {
    /// Linear, 20 epochs, every frame.
    fn default() -> Self {
        Self { epochs: 20, every: 1, hidden: None, seed: 0 }
    }
}

/// The share of `test` that a probe trained on `train` gets right. Linear: softmax regression by SGD (batch 256, rate
/// 0.05 with a cosine, momentum 0.9). With a hidden layer: linear, ReLU, linear by Adam (batch 256, rate 1e-3).
///
/// # Errors
/// Fewer than two classes, widths that differ, a probe that diverges.
pub fn probe(config: &ProbeConfig, train: &Features, test: &Features) -> Result<f64> {
    match config.hidden {
        None => {
            let linear = LinearConfig { epochs: config.epochs, seed: config.seed, ..LinearConfig::v1() };
            let metrics = evaluate_linear(&linear, train, test)?;
            metric(&metrics, "top1").ok_or_else(|| Error::data("linear probe", "no top1"))
        }
        Some(width) => hidden_layer(config, width, train, test),
    }
}

/// Samples in a step of the probe with a hidden layer.
const BATCH: usize = 256;

fn hidden_layer(config: &ProbeConfig, width: usize, train: &Features, test: &Features) -> Result<f64> {
    let classes = train.classes().max(test.classes());
    let standard = Standardizer::fit(train)?;
    let (train, test) = (standard.apply(train)?, standard.apply(test)?);
    let params = ParamStore::new(config.seed, &Device::Cpu);
    let layers = [MlpLayer::linear(width).relu(), MlpLayer::linear(classes)];
    let mlp = Mlp::new(&params.builder().pp("probe"), train.dim, &layers)?;
    let optimizer = OptimizerConfig::Adam(AdamConfig::default());
    let mut optimizer = optimizer.build(&params, &ParamGroups::new())?;
    let mode = Mode { grad: true, ..Mode::eval() };
    let rows = |set: &Features, indices: &[usize]| -> Result<Tensor> {
        let data: Vec<f32> = indices.iter().flat_map(|&i| set.row(i)).copied().collect();
        Ok(Tensor::from_vec(data, (indices.len(), set.dim), &Device::Cpu)?)
    };
    for epoch in 0..config.epochs {
        let key = Key::new(config.seed, Purpose::Eval).name("hidden.order").epoch(epoch as u64);
        for batch in key.stream().permutation(train.n).chunks(BATCH) {
            let labels: Vec<u32> = batch.iter().map(|&i| train.labels[i]).collect();
            let loss = cross_entropy(&mlp.forward(&rows(&train, batch)?, &mode)?, &labels)?;
            if !loss.to_scalar::<f32>()?.is_finite() {
                return Err(Error::NonFinite {
                    what: "hidden-layer probe's loss".to_string(),
                    step: epoch as u64,
                });
            }
            optimizer.step(&Gradients::of(&params, &loss)?, 1e-3)?;
        }
    }
    let mut right = 0;
    let all: Vec<usize> = (0..test.n).collect();
    for part in all.chunks(4096) {
        let best = mlp.forward(&rows(&test, part)?, &Mode::eval())?.argmax(1)?.to_vec1::<u32>()?;
        right += part.iter().zip(best).filter(|(i, best)| test.labels[**i] == *best).count();
    }
    Ok(right as f64 / test.n.max(1) as f64)
}

/// A training and a test part.
#[derive(Debug, Clone)]
pub struct Parts {
    /// For the probe to learn from.
    pub train: Recordings,
    /// To measure it on.
    pub test: Recordings,
}

/// Every `every`-th recording of each speaker for the test, for probes of speakers: both parts have all of them.
///
/// # Errors
/// A part that is empty.
pub fn split_recordings(recordings: &Recordings, every: usize) -> Result<Parts> {
    let mut counts = vec![0usize; recordings.speakers().len()];
    let mut test = Vec::new();
    for recording in recordings.all() {
        let count = &mut counts[recording.speaker as usize];
        *count += 1;
        if count.is_multiple_of(every.max(2)) {
            test.push(Arc::as_ptr(recording));
        }
    }
    let tested = |recording: &Recording| test.contains(&std::ptr::from_ref(recording));
    Ok(Parts { train: recordings.filtered(|r| !tested(r))?, test: recordings.filtered(tested)? })
}

/// The speakers that `test` says yes to for the test, for probes of phones and words: no speaker is in both parts.
///
/// # Errors
/// A part that is empty.
pub fn split_speakers(recordings: &Recordings, test: impl Fn(&str) -> bool) -> Result<Parts> {
    let tested = |recording: &Recording| test(&recordings.speakers()[recording.speaker as usize]);
    Ok(Parts { train: recordings.filtered(|r| !tested(r))?, test: recordings.filtered(tested)? })
}

/// The probes of the paper and of Greedy InfoMax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// The phone of every frame.
    Phones,
    /// The speaker of every frame, without averaging (the paper).
    Speakers,
    /// The speaker of a recording from its mean frame (Greedy InfoMax has the mean over a window).
    SpeakersByMean,
    /// What is said in a recording, from its mean frame.
    WordsByMean,
}

impl Task {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Phones => "phones",
            Self::Speakers => "speakers",
            Self::SpeakersByMean => "speakers-by-mean",
            Self::WordsByMean => "words-by-mean",
        }
    }

    /// The accuracy of a probe on the vectors of `encoder`, a fraction.
    ///
    /// # Errors
    /// As [`probe`] and [`labelled_frames`].
    pub fn accuracy(self, encoder: &dyn FrameEncoder, parts: &Parts, config: &ProbeConfig) -> Result<f64> {
        let features = |recordings: &Recordings| match self {
            Self::Phones => labelled_frames(encoder, recordings, phone_of, config.every),
            Self::Speakers => labelled_frames(encoder, recordings, speaker_of, config.every),
            Self::SpeakersByMean => mean_frames(encoder, recordings, speaker_of),
            Self::WordsByMean => mean_frames(encoder, recordings, word_of),
        };
        probe(config, &features(&parts.train)?, &features(&parts.test)?)
    }
}
