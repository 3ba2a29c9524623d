//! A whole run from one value: settings and a text in, vocabulary and trained networks out.

use std::sync::Arc;

use contrastive_core::data::{Batches, Loader, LoaderOptions};
use contrastive_core::dist::{Comm, single};
use contrastive_core::experiment::{RunOptions, RunParts, train_parts};
use contrastive_core::nn::Mode;
use contrastive_core::train::{Method, Outcome};
use contrastive_core::{Error, Result};

use super::config::TextRun;
use super::corpus::{Corpus, Text};
use super::method::TextCpc;
use super::vocabulary::Vocabulary;
use super::windows::Windows;
use crate::objective::StepScores;

/// The loader of a run: one window of every passage in an epoch.
pub type WindowLoader = Loader<Arc<Corpus>, Windows>;

/// Where [`fit`] puts the vocabulary in the run directory.
pub const VOCABULARY: &str = "vocabulary.txt";

/// The vocabulary of a run on `text`.
///
/// # Errors
/// A text without words.
pub fn vocabulary(run: &TextRun, text: &Text) -> Result<Vocabulary> {
    Vocabulary::build(text.sentences(), run.method.encoder.vocabulary)
}

/// The loader of a run on `text`. Each of several ranks gets its part of every batch.
///
/// # Errors
/// More words than the networks have vectors for, a batch larger than the corpus, a text without windows.
pub fn loader(
    run: &TextRun,
    text: &Text,
    vocabulary: &Vocabulary,
    workers: usize,
    comm: &Comm,
) -> Result<WindowLoader> {
    let (words, room) = (vocabulary.len(), run.method.encoder.vocabulary);
    if words > room {
        let reason = format!("{words} words where the networks have vectors for {room}");
        return Err(Error::data("vocabulary", reason));
    }
    let corpus = Arc::new(Corpus::new(text, vocabulary, &run.windows)?);
    let options = LoaderOptions { workers, ..LoaderOptions::new(run.train.batch_size, run.train.seed) };
    Loader::new(corpus, Windows(run.windows), options.on(comm))
}

/// Trains `method` on `batches` to the end, or until the stop flag is raised. See [`contrastive_core::experiment::train`]
/// for what the run directory holds.
///
/// # Errors
/// Settings out of range, a directory in use, data that does not fit, a loss that is not finite.
pub fn train(
    run: &TextRun,
    method: &mut dyn Method,
    batches: &dyn Batches,
    options: RunOptions<'_>,
) -> Result<Outcome> {
    run.check()?;
    let parts = RunParts {
        config: run,
        train: &run.train,
        optim: &run.optim,
        groups: run.groups(),
        backbone: run.method.backbone(),
        preprocessing: format!("words: at most {}", run.windows.words),
    };
    train_parts(parts, method, batches, options)
}

/// Text in, vocabulary and trained networks out: [`vocabulary`], [`TextCpc::new`], [`loader`] and [`train`]. The run
/// directory also gets the vocabulary ([`VOCABULARY`]).
///
/// # Errors
/// As [`train`].
pub fn fit(run: &TextRun, text: &Text, options: RunOptions<'_>) -> Result<(TextCpc, Vocabulary, Outcome)> {
    run.check()?;
    let vocabulary = vocabulary(run, text)?;
    let batches = loader(run, text, &vocabulary, options.workers, &options.comm)?;
    let mut method = TextCpc::new(run.method, run.train.seed, &options.device)?;
    let place = (options.comm.rank() == 0).then(|| options.dir.join(VOCABULARY));
    let outcome = train(run, &mut method, &batches, options)?;
    if let Some(place) = place {
        vocabulary.save(place)?;
    }
    Ok((method, vocabulary, outcome))
}

/// How well every step is predicted on one window of each passage of `text`, in batches as in training. Averages over
/// batches, which are of one size.
///
/// # Errors
/// As [`loader`] and the pretext task.
pub fn step_scores(
    run: &TextRun,
    method: &TextCpc,
    text: &Text,
    vocabulary: &Vocabulary,
) -> Result<Vec<StepScores>> {
    let batches = loader(run, text, vocabulary, 0, &single())?;
    let device = method.params().device();
    let mut sums: Vec<StepScores> = Vec::new();
    let mut count = 0.0;
    for batch in batches.epoch(0, 0) {
        let mut batch = batch?;
        batch.views =
            batch.views.iter().map(|view| view.to_device(&device)).collect::<candle_core::Result<_>>()?;
        let (contrast, _) = method.contrast(&batch, &Mode::eval())?;
        let none = StepScores { loss: 0.0, accuracy: 0.0, above: 0.0, predictions: 0 };
        sums.resize(contrast.steps.len(), none);
        for (sum, step) in sums.iter_mut().zip(&contrast.steps) {
            sum.loss += step.loss;
            sum.accuracy += step.accuracy;
            sum.above += step.above;
            sum.predictions += step.predictions;
        }
        count += 1.0;
    }
    for sum in &mut sums {
        (sum.loss, sum.accuracy, sum.above) = (sum.loss / count, sum.accuracy / count, sum.above / count);
    }
    Ok(sums)
}
