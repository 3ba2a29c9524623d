//! Averages and times of an epoch.

use std::time::Instant;

/// Averages over the steps of an epoch.
pub(super) struct Means {
    pub(super) began: Instant,
    lap: Instant,
    pub(super) steps: u64,
    loss: f64,
    terms: Vec<(String, f64, u64)>,
}

impl Default for Means {
    fn default() -> Self {
        let now = Instant::now();
        Self { began: now, lap: now, steps: 0, loss: 0.0, terms: Vec::new() }
    }
}

impl Means {
    /// Seconds since the end of the step before: the time that the loop waited for data.
    pub(super) fn lap(&self) -> f64 {
        self.lap.elapsed().as_secs_f64()
    }

    /// After log and checkpoint: what follows is the wait for the next batch.
    pub(super) fn step_ended(&mut self) {
        self.lap = Instant::now();
    }

    pub(super) fn add(&mut self, loss: f64, terms: &[(String, f64)]) {
        self.steps += 1;
        self.loss += loss;
        for (name, value) in terms {
            match self.terms.iter_mut().find(|(n, _, _)| n == name) {
                Some((_, sum, count)) => (*sum, *count) = (*sum + value, *count + 1),
                None => self.terms.push((name.clone(), *value, 1)),
            }
        }
    }

    pub(super) fn averages(&self) -> (f64, Vec<(String, f64)>) {
        let terms = self.terms.iter().map(|(name, sum, n)| (name.clone(), sum / *n as f64));
        (self.loss / self.steps.max(1) as f64, terms.collect())
    }
}
