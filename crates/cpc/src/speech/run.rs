//! A whole run from one value: settings and recordings in, trained networks out.

use contrastive_core::Result;
use contrastive_core::data::{Batches, Loader, LoaderOptions, Source};
use contrastive_core::dist::{Comm, single};
use contrastive_core::experiment::{RunOptions, RunParts, train_parts};
use contrastive_core::nn::Mode;
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::{Method, Outcome};
use contrastive_core::weights::canonical_json;

use super::config::SpeechRun;
use super::method::SpeechCpc;
use super::probes::LabelOf;
use super::recordings::Recordings;
use super::supervised::Supervised;
use super::windows::{FrameLabels, Windows};
use crate::objective::StepScores;

/// The loader of a run: one window of every recording in an epoch.
pub type WindowLoader = Loader<Recordings, Windows>;

/// The loader of a run on `recordings`. Each of several ranks gets its part of every batch.
///
/// # Errors
/// A batch larger than the collection (or than every speaker's part of it).
pub fn loader(run: &SpeechRun, recordings: &Recordings, workers: usize, comm: &Comm) -> Result<WindowLoader> {
    loader_of(run, recordings, Windows::new(run.windows, &run.method.encoder), workers, comm)
}

fn loader_of(
    run: &SpeechRun,
    recordings: &Recordings,
    windows: Windows,
    workers: usize,
    comm: &Comm,
) -> Result<WindowLoader> {
    let options = LoaderOptions { workers, ..LoaderOptions::new(run.train.batch_size, run.train.seed) };
    let loader = Loader::new(recordings.clone(), windows, options.on(comm))?;
    if run.windows.one_speaker_batches { loader.grouped(&recordings.speaker_of_each()) } else { Ok(loader) }
}

/// Trains `method` on `batches` to the end, or until the stop flag is raised. See [`contrastive_core::experiment::train`]
/// for what the run directory holds.
///
/// # Errors
/// Settings out of range, a directory in use, data that does not fit, a loss that is not finite.
pub fn train(
    run: &SpeechRun,
    method: &mut dyn Method,
    batches: &dyn Batches,
    options: RunOptions<'_>,
) -> Result<Outcome> {
    run.check()?;
    let preprocessing = serde_json::to_value(run.windows.scale)
        .map_err(|e| contrastive_core::Error::config("windows.scale", e.to_string()))?;
    let parts = RunParts {
        config: run,
        train: &run.train,
        optim: &run.optim,
        groups: run.groups(),
        backbone: run.method.backbone(),
        preprocessing: canonical_json(&preprocessing),
    };
    train_parts(parts, method, batches, options)
}

/// Recordings in, trained networks out: [`SpeechCpc::new`], [`loader`] and [`train`].
///
/// # Errors
/// As [`train`].
pub fn fit(
    run: &SpeechRun,
    recordings: &Recordings,
    options: RunOptions<'_>,
) -> Result<(SpeechCpc, Outcome)> {
    run.check()?;
    let batches = loader(run, recordings, options.workers, &options.comm)?;
    let mut method = SpeechCpc::new(run.method.clone(), run.train.seed, &options.device)?;
    let outcome = train(run, &mut method, &batches, options)?;
    Ok((method, outcome))
}

/// How well every step is predicted on one window of each of `recordings` (the paper's figure 3), in batches as in
/// training. Averages over batches, each as large as its predictions.
///
/// # Errors
/// As [`loader`] and the pretext task.
pub fn step_scores(run: &SpeechRun, method: &SpeechCpc, recordings: &Recordings) -> Result<Vec<StepScores>> {
    let batches = loader(run, recordings, 0, &single())?;
    let device = method.params().device();
    let mut sums: Vec<StepScores> = Vec::new();
    for (number, batch) in batches.epoch(0, 0).enumerate() {
        let mut batch = batch?;
        batch.views =
            batch.views.iter().map(|view| view.to_device(&device)).collect::<candle_core::Result<_>>()?;
        let key = Key::new(run.train.seed, Purpose::Eval).epoch(number as u64);
        let (contrast, _) = method.contrast(&batch, key, &Mode::eval())?;
        sums.resize(
            contrast.steps.len(),
            StepScores { loss: 0.0, accuracy: 0.0, above: 0.0, predictions: 0 },
        );
        for (sum, step) in sums.iter_mut().zip(&contrast.steps) {
            let n = step.predictions as f64;
            sum.loss += n * step.loss;
            sum.accuracy += n * step.accuracy;
            sum.above += n * step.above;
            sum.predictions += step.predictions;
        }
    }
    for sum in &mut sums {
        let n = (sum.predictions as f64).max(1.0);
        (sum.loss, sum.accuracy, sum.above) = (sum.loss / n, sum.accuracy / n, sum.above / n);
    }
    Ok(sums)
}

/// Mean contexts of up to `windows` windows of each recording of up to `speakers` speakers (those with the most
/// recordings), with the speakers as labels from 0: what the paper's figure 2 may show (it does not say which vectors).
///
/// # Errors
/// Recordings that the networks cannot take.
pub fn window_contexts(
    run: &SpeechRun,
    method: &SpeechCpc,
    recordings: &Recordings,
    speakers: usize,
    windows: u64,
) -> Result<contrastive_core::eval::Features> {
    let mut counts = vec![0usize; recordings.classes()];
    recordings.all().iter().for_each(|r| counts[r.speaker as usize] += 1);
    let mut order: Vec<usize> = (0..counts.len()).filter(|&s| counts[s] > 0).collect();
    order.sort_by_key(|&s| (std::cmp::Reverse(counts[s]), s));
    order.truncate(speakers);
    let transform = Windows::new(run.windows, &run.method.encoder);
    let device = method.params().device();
    let (mut data, mut labels) = (Vec::new(), Vec::new());
    for (index, recording) in recordings.all().iter().enumerate() {
        let Some(label) = order.iter().position(|&s| s == recording.speaker as usize) else { continue };
        for window in 0..windows {
            let key = Key::new(run.train.seed, Purpose::Eval).epoch(window).sample(index as u64);
            let view = contrastive_core::data::Transform::apply(&transform, recording, key)?.remove(0);
            let x = candle_core::Tensor::from_vec(view.data, (1, 1, run.windows.samples), &device)?;
            data.extend(method.features(&x)?.flatten_all()?.to_vec1::<f32>()?);
            labels.push(label as u32);
        }
    }
    contrastive_core::eval::Features::new("windows", data, method.model().width(), labels)
}

/// Trains the supervised baseline with the settings of `run` (its objective is not used): `label` is what every frame of
/// the recordings is trained to say, one of `classes`.
///
/// # Errors
/// As [`train`].
pub fn fit_supervised(
    run: &SpeechRun,
    recordings: &Recordings,
    (label, classes): (LabelOf, usize),
    options: RunOptions<'_>,
) -> Result<(Supervised, Outcome)> {
    run.check()?;
    let labels = FrameLabels { encoder: run.method.encoder.clone(), of: label };
    let windows = Windows::new(run.windows, &run.method.encoder).labelled(labels);
    let batches = loader_of(run, recordings, windows, options.workers, &options.comm)?;
    let mut method = Supervised::new(&run.method, classes, run.train.seed, &options.device)?;
    let outcome = train(run, &mut method, &batches, options)?;
    Ok((method, outcome))
}
