//! What the examples that train an encoder share: an observer that prints and keeps the time, and arguments.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use contrastive_core::Result;
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::{EpochRecord, Method, Notes, Observer, StepRecord};

/// Prints epochs and ends the run when its time is over.
pub struct Watch {
    began: Instant,
    minutes: f64,
    by_step: bool,
    stop: Arc<AtomicBool>,
}

impl Watch {
    /// From now on, for so many minutes. Prints the accuracy of every prediction step, or of their mean.
    pub fn new(minutes: f64, by_step: bool) -> Self {
        Self { began: Instant::now(), minutes, by_step, stop: Arc::default() }
    }

    /// A run in the folder `dir` that goes on where it ended and that this watches.
    pub fn options(&mut self, dir: &str) -> RunOptions<'_> {
        RunOptions {
            stop: self.stop.clone(),
            resume: true,
            observers: vec![self],
            ..RunOptions::new(Path::new(dir))
        }
    }
}

impl Observer for Watch {
    fn on_step(&mut self, _record: &StepRecord<'_>, _notes: &mut Notes) -> Result<()> {
        if self.began.elapsed().as_secs_f64() > 60.0 * self.minutes {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_epoch(&mut self, record: &EpochRecord<'_>, _: &dyn Method, _: &mut Notes) -> Result<()> {
        let (epoch, of) = (record.progress.epoch + 1, record.progress.total_epochs);
        print!("epoch {epoch}/{of} loss {:.3} accuracy", record.loss);
        if self.by_step {
            for (_, value) in record.terms.iter().filter(|(name, _)| name.ends_with("/accuracy")) {
                print!(" {value:.3}");
            }
        } else {
            let term =
                |name: &str| record.terms.iter().find(|(n, _)| n == name).map_or(f64::NAN, |(_, v)| *v);
            print!(" {:.3} above {:.3}", term("accuracy"), term("above"));
        }
        println!(" ({:.1} s)", record.seconds);
        Ok(())
    }

    fn on_warning(&mut self, step: u64, text: &str) {
        println!("step {step}: {text}");
    }
}

/// The value of an argument `name=value`, which is taken out.
pub fn take(arguments: &mut Vec<String>, name: &str) -> Option<String> {
    let at = arguments.iter().position(|a| a.split_once('=').is_some_and(|(key, _)| key == name))?;
    arguments.remove(at).split_once('=').map(|(_, value)| value.to_string())
}

/// The preset that the last arguments begin with, if they do, and the settings over it.
pub fn preset<'a>(rest: &'a [String], usual: &'a str) -> (&'a str, &'a [String]) {
    match rest.split_first() {
        Some((first, rest)) if !first.contains('=') => (first, rest),
        _ => (usual, rest),
    }
}
