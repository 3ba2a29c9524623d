//! What a person sees while a run goes on, and the kNN curve.

use std::time::Duration;

use anyhow::Result;
use contrastive_core::eval::{Features, Protocol};
use contrastive_core::train::{EpochRecord, Method, Notes, Observer, StepRecord};
use indicatif::{ProgressBar, ProgressStyle};

/// A bar with throughput, loss and time left. Draws nothing where there is no terminal.
pub struct Bar {
    bar: ProgressBar,
    started: bool,
}

impl Bar {
    /// A bar titled `name`.
    pub fn new(name: &str) -> Result<Self> {
        let template = "{prefix} [{bar:30}] {pos}/{len} {msg} ({eta} left)";
        let bar = ProgressBar::new(0).with_prefix(name.to_string());
        bar.set_style(ProgressStyle::with_template(template)?.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(500));
        Ok(Self { bar, started: false })
    }
}

impl Observer for Bar {
    fn on_step(&mut self, record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        if !self.started {
            self.bar.set_length(record.progress.total_steps);
            self.bar.set_position(record.progress.step);
            self.bar.reset_eta();
            self.started = true;
        }
        self.bar.set_position(record.progress.step + 1);
        self.bar.set_message(format!("loss {:.3}, {:.0} samples/s", record.loss, record.images_per_second));
        Ok(())
    }

    fn on_warning(&mut self, step: u64, text: &str) {
        // Also where no bar is drawn: a warning must not get lost.
        self.bar.suspend(|| eprintln!("warning: step {step}: {text}"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Gives features of the training and the test set of the method as it stands.
type Extract<'a> = dyn Fn(&dyn Method) -> contrastive_core::Result<(Features, Features)> + Send + 'a;

/// Measures a protocol every few epochs and logs it.
pub struct Curve<'a> {
    /// What to measure.
    pub protocol: Protocol,
    /// How many epochs lie between two measurements.
    pub every: u64,
    /// Where the features come from.
    pub extract: Box<Extract<'a>>,
}

impl Observer for Curve<'_> {
    fn on_epoch(
        &mut self,
        record: &EpochRecord<'_>,
        method: &dyn Method,
        notes: &mut Notes,
    ) -> contrastive_core::Result<()> {
        let done = record.progress.epoch + 1;
        if !done.is_multiple_of(self.every) && done != record.progress.total_epochs {
            return Ok(());
        }
        let (train, test) = (self.extract)(method)?;
        for metric in self.protocol.evaluate(&train, &test)? {
            notes.scalar(format!("{}/{}", self.protocol, metric.name), metric.value);
        }
        Ok(())
    }
}
