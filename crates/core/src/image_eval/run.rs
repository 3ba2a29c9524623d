//! A protocol from images to metrics.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Device};

use super::{Classifier, ClassifierConfig, ImageProtocol, Subject};
use crate::augment::Image;
use crate::data::{SequentialLoader, Source, Subset};
use crate::dist::single;
use crate::eval::labelled;
use crate::eval::metrics::{Metric, Metrics, Outcome, Predictions};
use crate::eval::split::hold_out;
use crate::experiment::{RunConfig, RunOptions, loader, train};
use crate::train::config::layered;
use crate::train::{Method, Observer, Outcome as Ending};
use crate::{Error, Result};

/// Any source of images.
pub type Images = Arc<dyn Source<Sample = Image>>;

/// Samples that could not be read, each with the reason.
type Skipped = Vec<(String, String)>;

/// Images that are classified at a time.
const BATCH: usize = 256;
/// The share of the images at hand that settings are chosen on.
const HELD_OUT: f64 = 0.1;

/// What a protocol needs beside encoder and data. Only `set` changes the result.
pub struct Options<'a> {
    /// The folder for run directories: one for each run, named by what it depends on; a run that was interrupted goes on,
    /// one that is finished is only measured.
    pub dir: PathBuf,
    /// Where parameters live.
    pub device: Device,
    /// Threads that prepare batches.
    pub workers: usize,
    /// Ends the run in progress after its step when raised.
    pub stop: Arc<AtomicBool>,
    /// Settings over the protocol's (`train.epochs=1`); what is measured then is no longer the protocol.
    pub set: Vec<String>,
    /// Sees every run of the protocol.
    pub observer: Option<&'a mut dyn Observer>,
}

impl Options<'_> {
    /// On the CPU, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            device: Device::Cpu,
            workers: 2,
            stop: Arc::default(),
            set: Vec::new(),
            observer: None,
        }
    }
}

/// What a protocol found.
#[derive(Debug, Clone)]
pub struct Measured {
    /// As of every classifier; where settings were swept also the chosen `lr` and `epochs`, and their `held-out-top1`.
    /// `linear-layers-v1` has one set for each layer (`layer4/top1`).
    pub metrics: Metrics,
    /// The run that was measured.
    pub run: RunConfig<ClassifierConfig>,
    /// Test images that could not be read.
    pub skipped: Skipped,
}

/// The images a protocol trains on, and those it chooses settings on.
struct Parts {
    /// What the protocol trains on in the end.
    labelled: Images,
    /// What it trains on while it chooses.
    fit: Images,
    held: Images,
    /// Whether `fit` is only a part of `labelled`.
    apart: bool,
}

impl ImageProtocol {
    /// The runs of this protocol on a training set, with settings over them: [`ImageProtocol::runs`] for the labels that
    /// the protocol takes.
    ///
    /// # Errors
    /// As [`ImageProtocol::runs`]; a setting that is unknown or does not fit.
    pub fn runs_on(
        self,
        subject: &Subject,
        train: &Images,
        set: &[String],
    ) -> Result<Vec<RunConfig<ClassifierConfig>>> {
        let per_class = self.per_class(train.name(), train.len(), train.classes())?;
        let samples = per_class.map_or(train.len(), |n| n * train.classes());
        // Only an evaluation that takes images as they are depends on their size; they are all alike then.
        let side = match (subject.eval.crop, subject.eval.resize) {
            (None, None) => train.sample(0).map(|image| image.width.min(image.height))?,
            _ => 1,
        };
        let runs = self.runs(subject, side, samples, train.classes())?;
        let runs = runs.into_iter().map(|run| layered(&run, None, set)).collect::<Result<Vec<_>>>()?;
        runs.iter().try_for_each(RunConfig::check)?;
        Ok(runs)
    }

    /// Trains on `train` and measures on `test`; nothing where the stop flag was raised.
    ///
    /// Where settings are swept they are chosen by top-1 on held-out images, never on the test set: with 1 % or 10 % of
    /// the labels on a tenth of the other training images, otherwise on a tenth of the training set, on all of which the
    /// best setting is then trained anew. Of equally good settings the first counts.
    ///
    /// # Errors
    /// Weights that do not fit the backbone; data without labels; what [`crate::experiment::train`] refuses.
    pub fn measure(
        self,
        subject: &Subject,
        train: &Images,
        test: &Images,
        mut options: Options<'_>,
    ) -> Result<Option<Measured>> {
        if test.classes() == 0 {
            return Err(Error::data(test.name(), "the protocol needs labels"));
        }
        let mut runs = self.runs_on(subject, train, &options.set)?;
        let swept = runs.len() * runs[0].method.rates.len() > 1;
        if !swept {
            let labelled = self.labelled(train)?;
            let run = runs.swap_remove(0);
            return self.last(subject, run, &labelled, test, &mut options, Vec::new());
        }
        let parts = self.parts(train)?;
        let mut best: Option<(f64, RunConfig<ClassifierConfig>)> = None;
        for run in runs {
            let Some(trained) = fit(subject, &run, &parts.fit, &mut options)? else { return Ok(None) };
            let (said, _) = predict(&trained, subject, &parts.held, &options)?;
            for (said, &rate) in said.iter().zip(&run.method.rates) {
                let top1 = said.top(1);
                if best.as_ref().is_none_or(|(most, _)| top1 > *most) {
                    let mut run = run.clone();
                    if run.method.frozen {
                        // The factor goes into the rate itself; an unfrozen head keeps its own.
                        run.optim.lr *= rate;
                        run.method.rates = vec![1.0];
                    }
                    best = Some((top1, run));
                }
            }
        }
        let Some((top1, run)) = best else { return Ok(None) };
        let chosen = vec![
            Metric::setting("lr", run.optim.lr),
            Metric::setting("epochs", run.train.epochs as f64),
            Metric::fraction("held-out-top1", top1),
        ];
        let source = if parts.apart { &parts.labelled } else { &parts.fit };
        self.last(subject, run, source, test, &mut options, chosen)
    }

    /// The labels that the protocol takes.
    fn labelled(self, train: &Images) -> Result<Images> {
        Ok(match self.per_class(train.name(), train.len(), train.classes())? {
            Some(n) => Arc::new(Subset::class_balanced(train.clone(), n, 0)?),
            None => train.clone(),
        })
    }

    fn parts(self, train: &Images) -> Result<Parts> {
        let label = |index: usize| {
            let reason = || Error::data(train.name(), format!("sample {index} has no label"));
            train.label(index).ok_or_else(reason)
        };
        let labels = (0..train.len()).map(label).collect::<Result<Vec<u32>>>()?;
        let of =
            |indices: Vec<usize>| -> Result<Images> { Ok(Arc::new(Subset::new(train.clone(), indices)?)) };
        let Some(n) = self.per_class(train.name(), train.len(), train.classes())? else {
            let parts = hold_out(train.name(), &labels, HELD_OUT, 0)?;
            return Ok(Parts {
                labelled: train.clone(),
                fit: of(parts.rest)?,
                held: of(parts.held)?,
                apart: true,
            });
        };
        let subset = Subset::class_balanced(train.clone(), n, 0)?;
        let mut taken = vec![false; train.len()];
        subset.indices().iter().for_each(|&i| taken[i] = true);
        let others: Vec<usize> = (0..train.len()).filter(|&i| !taken[i]).collect();
        let other_labels: Vec<u32> = others.iter().map(|&i| labels[i]).collect();
        let held = hold_out(train.name(), &other_labels, HELD_OUT, 0)?.held;
        let labelled: Images = Arc::new(subset);
        let held = of(held.into_iter().map(|i| others[i]).collect())?;
        Ok(Parts { fit: labelled.clone(), labelled, held, apart: false })
    }

    /// Trains the one run that counts and measures it on the test set.
    fn last(
        self,
        subject: &Subject,
        run: RunConfig<ClassifierConfig>,
        source: &Images,
        test: &Images,
        options: &mut Options<'_>,
        chosen: Metrics,
    ) -> Result<Option<Measured>> {
        let Some(trained) = fit(subject, &run, source, options)? else { return Ok(None) };
        let (said, skipped) = predict(&trained, subject, test, options)?;
        let names = run.method.features.names();
        let mut metrics = Vec::new();
        for (place, said) in said.iter().enumerate() {
            let prefix = names.get(place).map_or(String::new(), |name| format!("{name}/"));
            let named = |m: Metric| Metric { name: format!("{prefix}{}", m.name), ..m };
            metrics.extend(said.metrics().into_iter().map(named));
        }
        metrics.extend(chosen);
        Ok(Some(Measured { metrics, run, skipped }))
    }
}

/// Trains one run in its directory.
fn fit(
    subject: &Subject,
    run: &RunConfig<ClassifierConfig>,
    source: &Images,
    options: &mut Options<'_>,
) -> Result<Option<Classifier>> {
    let mut classifier = Classifier::new(run.method.clone(), run.train.seed, &options.device)?;
    classifier.load_backbone(&subject.tensors, &subject.path)?;
    let fingerprint = source.fingerprint();
    let data = fingerprint.get(..8).unwrap_or(&fingerprint);
    let name = format!("{}-{}-{data}", run.method.protocol, run.hash()?);
    let batches = loader(run, source.clone(), options.workers, &single())?;
    let mut observers: Vec<&mut dyn Observer> = Vec::new();
    if let Some(observer) = options.observer.as_deref_mut() {
        observers.push(observer);
    }
    let run_options = RunOptions {
        dir: options.dir.join(name),
        resume: true,
        device: options.device.clone(),
        workers: options.workers,
        stop: options.stop.clone(),
        comm: single(),
        observers,
    };
    let ending = train(run, &mut classifier, &batches, run_options)?;
    Ok((ending == Ending::Finished).then_some(classifier))
}

/// What every classifier says about a set, in the order of [`Classifier::scores`], and what could not be read.
fn predict(
    classifier: &Classifier,
    subject: &Subject,
    source: &Images,
    options: &Options<'_>,
) -> Result<(Vec<Predictions>, Skipped)> {
    let classes = classifier.config().classes.max(source.classes());
    let loader = SequentialLoader::new(source.clone(), subject.eval.clone(), BATCH, options.workers)?;
    let (mut outcomes, mut all): (Vec<Vec<Outcome>>, Vec<u32>) = Default::default();
    for batch in loader.batches() {
        let (x, labels) = labelled(batch?)?;
        let scores = classifier.scores(&x.to_device(&options.device)?)?;
        outcomes.resize_with(scores.len(), Vec::new);
        for (outcomes, scores) in outcomes.iter_mut().zip(scores) {
            let rows = scores.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            outcomes.extend(rows.iter().zip(&labels).map(|(row, &label)| Outcome::from_scores(row, label)));
        }
        all.extend_from_slice(&labels);
    }
    if all.is_empty() {
        return Err(Error::data(source.name(), "none of the samples can be read"));
    }
    let said = outcomes.into_iter().map(|outcomes| Predictions::new(classes, &all, outcomes)).collect();
    Ok((said, loader.skipped().list()))
}
