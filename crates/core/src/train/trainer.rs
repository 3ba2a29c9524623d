//! The loop.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::checkpoint::{Checkpoint, Parts};
use super::means::Means;
use super::observer::{EpochRecord, Notes, Observer, StepRecord};
use super::run_dir::{RunDir, RunLog};
use super::together::Together;
use super::{Method, Progress, StepOutput, TrainConfig, with_big_stack};
use crate::data::{Batch, Batches};
use crate::dist::{Comm, single};
use crate::kernels::with_precision;
use crate::optim::{Gradients, Optimizer};
use crate::weights::{DataIdentity, Manifest, save_encoder};
use crate::{Error, Result};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// The stop flag was raised; a checkpoint holds everything up to here.
    Interrupted,
}

/// Trains a method. See [`Trainer::run`] for what a step is.
pub struct Trainer<'a> {
    method: &'a mut dyn Method,
    optimizer: &'a mut dyn Optimizer,
    batches: &'a dyn Batches,
    lr: &'a (dyn Fn(&Progress) -> f64 + Sync),
    weight_decay: Option<&'a (dyn Fn(&Progress) -> f64 + Sync)>,
    config: TrainConfig,
    ranks: Together,
    stop: Arc<AtomicBool>,
    run_dir: Option<RunDir>,
    checkpoint: Option<&'a Checkpoint>,
    manifest: Option<Manifest>,
    observers: Vec<&'a mut dyn Observer>,
}

impl<'a> Trainer<'a> {
    /// A trainer of one rank that writes nothing. `lr` gives the learning rate of a step; `batches` brings
    /// `config.batch_size` samples a step.
    pub fn new(
        method: &'a mut dyn Method,
        optimizer: &'a mut dyn Optimizer,
        batches: &'a dyn Batches,
        lr: &'a (dyn Fn(&Progress) -> f64 + Sync),
        config: TrainConfig,
    ) -> Self {
        Self {
            method,
            optimizer,
            batches,
            lr,
            weight_decay: None,
            config,
            ranks: Together::new(single()),
            stop: Arc::default(),
            run_dir: None,
            checkpoint: None,
            manifest: None,
            observers: Vec::new(),
        }
    }

    /// The ranks of the run. Every rank has a trainer; all bring the same method, settings and start.
    #[must_use]
    pub fn comm(mut self, comm: Comm) -> Self {
        self.ranks = Together::new(comm);
        self
    }

    /// The weight decay of each step, where it is not the optimiser's own (DINO).
    #[must_use]
    pub fn weight_decay(mut self, weight_decay: &'a (dyn Fn(&Progress) -> f64 + Sync)) -> Self {
        self.weight_decay = Some(weight_decay);
        self
    }

    /// Raised from outside (by a signal handler), it ends the run after the step in progress.
    #[must_use]
    pub fn stop_flag(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = stop;
        self
    }

    /// Where logs and checkpoints go, and where the run goes on from if the folder was resumed. Rank 0 only.
    #[must_use]
    pub fn run_dir(mut self, run_dir: RunDir) -> Self {
        self.run_dir = Some(run_dir);
        self
    }

    /// Goes on from this checkpoint: for the ranks that have no run directory.
    #[must_use]
    pub fn resume_from(mut self, checkpoint: &'a Checkpoint) -> Self {
        self.checkpoint = Some(checkpoint);
        self
    }

    /// What to write beside the encoder when the run has finished; without it no encoder is written.
    #[must_use]
    pub fn manifest(mut self, manifest: Manifest) -> Self {
        self.manifest = Some(manifest);
        self
    }

    /// Adds an observer.
    #[must_use]
    pub fn observer(mut self, observer: &'a mut dyn Observer) -> Self {
        self.observers.push(observer);
        self
    }

    /// Trains to the end, or until the stop flag is raised. Runs on a thread of its own ([`with_big_stack`]).
    ///
    /// A step is: batch to the device, [`Method::before_step`], [`Method::step`], backward, mean of the gradients over
    /// ranks, clipping, [`Method::frozen`], optimiser, [`Method::after_update`], observers, log, checkpoint. The method sees the same
    /// [`Progress`] in its three calls, and so does the learning rate.
    ///
    /// # Errors
    /// [`Error::NonFinite`] as soon as the loss or a gradient is not finite: nothing is saved after that, and the
    /// parameters are those of the step before. Otherwise whatever the method, the data, the optimiser, an observer or
    /// the disk refuse. The last checkpoint stays in every case.
    pub fn run(&mut self) -> Result<Outcome> {
        // A GPU takes each thread's work in a queue of its own: what one thread leaves is done before another begins.
        let device = self.method.params().device();
        device.synchronize()?;
        with_big_stack(|| {
            let outcome = self.run_here()?;
            device.synchronize()?;
            Ok(outcome)
        })
    }

    fn run_here(&mut self) -> Result<Outcome> {
        self.config.check("")?;
        let steps_per_epoch = self.batches.steps_per_epoch();
        let (name, fingerprint) = self.batches.identity();
        let data = DataIdentity { name, fingerprint };
        if steps_per_epoch == 0 {
            let reason = format!("has fewer samples than a batch of {}", self.config.batch_size);
            return Err(Error::data(data.name, reason));
        }
        let base = Progress {
            seed: self.config.seed,
            step: 0,
            total_steps: self.config.epochs * steps_per_epoch,
            epoch: 0,
            total_epochs: self.config.epochs,
            steps_per_epoch,
        };
        let mut warnings = self.run_dir.as_ref().map_or(Vec::new(), |dir| dir.warnings().to_vec());
        self.method.prepare(self.batches.samples())?;
        let start = self.restore(&base, &data, &mut warnings)?;
        let log = self.run_dir.as_ref().map(|dir| dir.open_log(start.unwrap_or(0))).transpose()?;
        let mut run = Run { base, data, log, saved: start, first: true, skipped: HashSet::new() };
        for warning in warnings {
            self.warn(&mut run, start.unwrap_or(0), &warning)?;
        }
        let mut step = start.unwrap_or(0);
        let batches = self.batches;
        while step < base.total_steps {
            let epoch = step / steps_per_epoch;
            let mut means = Means::default();
            for batch in batches.epoch(epoch, step % steps_per_epoch) {
                if step / steps_per_epoch != epoch {
                    return Err(Error::data(run.data.name, format!("epoch {epoch} has too many batches")));
                }
                let progress = Progress { step, epoch, ..base };
                let waited = means.lap();
                with_precision(self.config.precision, || {
                    self.step(&mut run, &progress, batch?, &mut means, waited)
                })?;
                step += 1;
                let ended = step.is_multiple_of(steps_per_epoch);
                if ended {
                    self.end_epoch(&mut run, &progress, &means)?;
                }
                let stopped = self.ranks.any(self.stop.load(Ordering::Relaxed))? && step < base.total_steps;
                if self.due(step, ended, &base) || stopped {
                    self.save(&mut run, &Progress { step, epoch: step / steps_per_epoch, ..base })?;
                }
                if stopped {
                    return Ok(Outcome::Interrupted);
                }
                means.step_ended();
            }
            if step / steps_per_epoch == epoch {
                let reason = format!("epoch {epoch} ends after {} batches", step % steps_per_epoch);
                return Err(Error::data(run.data.name, reason));
            }
        }
        if let (Some(dir), Some(manifest)) = (&self.run_dir, &self.manifest) {
            export_encoder(&dir.encoder_path(), self.method, manifest)?;
        }
        Ok(Outcome::Finished)
    }

    /// Puts back what the checkpoint holds; gives the number of steps done.
    fn restore(
        &mut self,
        base: &Progress,
        data: &DataIdentity,
        warnings: &mut Vec<String>,
    ) -> Result<Option<u64>> {
        let own = self.run_dir.as_mut().and_then(RunDir::take_checkpoint);
        let Some(checkpoint) = own.as_ref().or(self.checkpoint) else { return Ok(None) };
        let header = checkpoint.header();
        if let Some(dir) = &self.run_dir
            && let Some(key) = super::config::first_difference(&header.config, dir.config())
        {
            return Err(Error::config(key, format!("differs from {}", checkpoint.path().display())));
        }
        if header.data != *data {
            let reason = format!(
                "{} was trained on `{}` ({}), not on `{}` ({})",
                checkpoint.path().display(),
                header.data.name,
                header.data.fingerprint,
                data.name,
                data.fingerprint
            );
            return Err(Error::data(&data.name, reason));
        }
        let was = header.progress;
        for (key, was, is) in [
            ("seed", was.seed, base.seed),
            ("epochs", was.total_epochs, base.total_epochs),
            ("batch_size", was.steps_per_epoch, base.steps_per_epoch),
        ] {
            if was != is {
                let reason = format!("gives {is}, but {was} in {}", checkpoint.path().display());
                return Err(Error::config(key, reason));
            }
        }
        checkpoint.restore(self.method, self.optimizer)?;
        for observer in self.observers.iter_mut().filter(|o| !o.name().is_empty()) {
            match checkpoint.observer(observer.name()) {
                Some(state) => observer.load_state(&state)?,
                None => warnings.push(format!(
                    "{} has no state of `{}`, which begins anew",
                    checkpoint.path().display(),
                    observer.name()
                )),
            }
        }
        Ok(Some(was.step))
    }

    fn step(
        &mut self,
        run: &mut Run,
        progress: &Progress,
        batch: Batch,
        means: &mut Means,
        waited: f64,
    ) -> Result<()> {
        let began = Instant::now();
        let device = self.method.params().device();
        let views = batch.views.iter().map(|v| v.to_device(&device)).collect::<Result<Vec<_>, _>>()?;
        if views.len() != self.method.views() {
            let reason = format!(
                "a batch has {} views, `{}` takes {}",
                views.len(),
                self.method.name(),
                self.method.views()
            );
            return Err(Error::data(&run.data.name, reason));
        }
        let batch = Batch { views, ..batch };
        let lr = (self.lr)(progress);
        if !(lr.is_finite() && lr >= 0.0) {
            let reason = format!("the schedule gives {lr} at step {}", progress.step);
            return Err(Error::config("learning rate", reason));
        }
        self.method.before_step(progress)?;
        let mut output = self.method.step(&batch, self.ranks.comm(), progress)?;
        let value = self.ranks.mean(&output.loss)?;
        if !value.is_finite() {
            return Err(Error::NonFinite { what: "loss".to_string(), step: progress.step });
        }
        let gradients = output.take_gradients(self.method.params())?;
        let StepOutput { loss, terms, embeddings, assignments, features, .. } = output;
        // The graph and with it all activations.
        drop(loss);
        self.check_reach(run, progress.step, &gradients)?;
        let gradients = gradients.average(self.ranks.comm())?;
        let (mut gradients, grad_norm) = self.check_and_clip(gradients, progress.step)?;
        gradients.retain(|name| !self.method.frozen(name, progress));
        if let Some(weight_decay) = self.weight_decay {
            self.optimizer.set_weight_decay(weight_decay(progress))?;
        }
        self.optimizer.step(&gradients, lr)?;
        drop(gradients);
        self.method.after_update(progress)?;

        let seconds = waited + began.elapsed().as_secs_f64();
        let images_per_second = (batch.len() * self.ranks.comm().size()) as f64 / seconds.max(1e-9);
        let record = StepRecord {
            progress: *progress,
            loss: value,
            terms: &terms,
            lr,
            grad_norm,
            embeddings: &embeddings,
            assignments: assignments.as_ref(),
            features: features.as_ref(),
            labels: batch.labels.as_deref(),
            logged: progress.step.is_multiple_of(self.config.log_every_steps),
            seconds,
            images_per_second,
        };
        means.add(value, &terms);
        let mut notes = Notes::default();
        for observer in &mut self.observers {
            observer.on_step(&record, &mut notes)?;
        }
        if record.logged || !notes.scalars.is_empty() {
            let mut scalars = vec![("loss", value), ("lr", lr), ("grad_norm", grad_norm)];
            scalars.extend(terms.iter().chain(&notes.scalars).map(|(n, v)| (n.as_str(), *v)));
            let time = json!({"seconds": seconds, "images_per_second": images_per_second});
            run.log("step", progress, &scalars, time)?;
        }
        self.pass_on(run, progress.step, notes)
    }

    /// In the first step: a loss that does not reach the parameters would train nothing without a word, because several
    /// operations of Candle cut the graph silently.
    fn check_reach(&mut self, run: &mut Run, step: u64, gradients: &Gradients) -> Result<()> {
        if !std::mem::take(&mut run.first) {
            return Ok(());
        }
        let parameters = self.method.params().parameters();
        let without: Vec<&str> =
            parameters.iter().map(|p| p.name.as_str()).filter(|name| gradients.get(name).is_none()).collect();
        if without.len() == parameters.len() {
            return Err(Error::data(self.method.name(), "the loss has a gradient for no parameter"));
        }
        if without.is_empty() {
            return Ok(());
        }
        let text = format!("parameters without a gradient: {}", without.join(", "));
        self.warn(run, step, &text)
    }

    fn check_and_clip(&self, mut gradients: Gradients, step: u64) -> Result<(Gradients, f64)> {
        let norm = gradients.norm()?;
        if !norm.is_finite() {
            for (name, gradient) in gradients.iter() {
                let single = Gradients::from_named(vec![(name.to_string(), gradient.clone())]);
                if !single.norm()?.is_finite() {
                    return Err(Error::NonFinite { what: format!("gradient of {name}"), step });
                }
            }
            return Err(Error::NonFinite { what: "norm of the gradient".to_string(), step });
        }
        match self.config.grad_clip {
            Some(clip) if self.config.grad_clip_each => gradients.clip_norm_each(clip)?,
            Some(clip) => gradients.clip_norm(clip)?,
            None => norm,
        };
        Ok((gradients, norm))
    }

    fn end_epoch(&mut self, run: &mut Run, progress: &Progress, means: &Means) -> Result<()> {
        let (loss, terms) = means.averages();
        let seconds = means.began.elapsed().as_secs_f64();
        let record = EpochRecord { progress: *progress, loss, terms: &terms, steps: means.steps, seconds };
        let mut notes = Notes::default();
        for observer in &mut self.observers {
            observer.on_epoch(&record, self.method, &mut notes)?;
        }
        let mut scalars = vec![("loss", loss)];
        scalars.extend(terms.iter().chain(&notes.scalars).map(|(n, v)| (n.as_str(), *v)));
        let (waited, slow) = self.ranks.waited(seconds)?;
        run.log("epoch", progress, &scalars, json!({"seconds": seconds, "waited": waited}))?;
        // Not into the log, which says the same of the same run on any machine.
        if let Some(text) = slow {
            self.observers.iter_mut().for_each(|observer| observer.on_warning(progress.step, &text));
        }
        self.pass_on(run, progress.step, notes)?;
        for (name, reason) in self.batches.skipped() {
            if run.skipped.insert(name.clone()) {
                let count = run.skipped.len();
                self.warn(run, progress.step, &format!("sample skipped ({count} so far): {name}: {reason}"))?;
            }
        }
        Ok(())
    }

    fn pass_on(&mut self, run: &mut Run, step: u64, notes: Notes) -> Result<()> {
        notes.warnings.iter().try_for_each(|text| self.warn(run, step, text))
    }

    fn warn(&mut self, run: &mut Run, step: u64, text: &str) -> Result<()> {
        for observer in &mut self.observers {
            observer.on_warning(step, text);
        }
        match &mut run.log {
            Some(log) => log.line(&json!({"kind": "warning", "step": step, "text": text})),
            None => Ok(()),
        }
    }

    fn due(&self, step: u64, epoch_ended: bool, base: &Progress) -> bool {
        let every = |n: u64, period: u64| period > 0 && n.is_multiple_of(period);
        every(step, self.config.checkpoint_every_steps)
            || epoch_ended && every(step / base.steps_per_epoch, self.config.checkpoint_every_epochs)
            || step == base.total_steps
    }

    fn save(&self, run: &mut Run, progress: &Progress) -> Result<()> {
        let Some(dir) = &self.run_dir else { return Ok(()) };
        if run.saved.replace(progress.step) == Some(progress.step) {
            return Ok(());
        }
        let folder = dir.checkpoints();
        let path = folder.path(progress.step);
        let mut observers = Vec::new();
        for observer in self.observers.iter().filter(|o| !o.name().is_empty()) {
            let state = observer.state()?.into_iter();
            observers.extend(state.map(|(name, t)| (format!("{}/{name}", observer.name()), t)));
        }
        let parts = Parts { method: self.method, optimizer: self.optimizer, observers };
        Checkpoint::save(&path, parts, progress, dir.config(), &run.data)?;
        folder.prune(self.config.keep_checkpoints)
    }
}

/// Writes the evaluated backbone of a method with its manifest.
///
/// # Errors
/// [`Error::Format`] for a manifest of another method or branch; [`Error::Io`].
pub fn export_encoder(path: &Path, method: &dyn Method, manifest: &Manifest) -> Result<()> {
    let (name, branch) = (method.name(), method.branch().name());
    if manifest.method != name || manifest.branch != branch {
        let reason = format!(
            "the manifest is for `{}` ({}), the method is `{name}` ({branch})",
            manifest.method, manifest.branch
        );
        return Err(Error::format(path, reason));
    }
    save_encoder(path, &method.backbone(), manifest)
}

/// What lives as long as one call of [`Trainer::run`].
struct Run {
    base: Progress,
    data: DataIdentity,
    log: Option<RunLog>,
    saved: Option<u64>,
    first: bool,
    /// Unreadable samples that a person was already told of.
    skipped: HashSet<String>,
}

impl Run {
    fn log(&mut self, kind: &str, progress: &Progress, scalars: &[(&str, f64)], time: Value) -> Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let values: Map<String, Value> = scalars.iter().map(|(n, v)| ((*n).to_string(), json!(v))).collect();
        let (step, epoch, of) = (progress.step, progress.epoch, self.base.total_steps);
        log.line(
            &json!({"kind": kind, "step": step, "epoch": epoch, "total_steps": of, "values": values, "time": time}),
        )?;
        let tags: Vec<(String, f64)> = scalars.iter().map(|(n, v)| (format!("{kind}/{n}"), *v)).collect();
        let tags: Vec<(&str, f64)> = tags.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        log.scalars(step, &tags)
    }
}
