//! Learning rates over time and over batch sizes.

use serde::{Deserialize, Serialize};

use super::config::require;
use crate::progress::Progress;
use crate::{Error, Result};

/// Cosine decay from `a` at `t = 0` to `b` at `t = total`: `b + (a - b)(1 + cos(π t / total)) / 2`. Beyond `total` it
/// stays at `b`; a `total` of 0 gives `b`. For learning rates, EMA momenta (BYOL: 0.996 to 1) and weight decays.
pub fn cosine(a: f64, b: f64, t: f64, total: f64) -> f64 {
    if t >= total {
        return b;
    }
    b + (a - b) * (1.0 + (std::f64::consts::PI * t / total).cos()) / 2.0
}

/// How the learning rate moves; in a file, the table's `kind` names the form (`"warmup-cosine"`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// The base rate at every step. (Written with braces so that unknown keys are refused.)
    Constant {},
    /// Linear warm-up from `start`, then cosine to `end`, changing at every step (SimCLR, BYOL, MoCo v3, SwAV).
    ///
    /// With `W = round(warmup_epochs * steps_per_epoch)` and `T` steps in all, step `s` (from 0) gets
    /// `start + (base - start) * s / W` while `s < W`: the very first step has rate `start`, step `W` the first full one. From there it is
    /// [`cosine`]`(base, end, s - W, T - W)`, so `end` would be reached by step `T`, one after the last.
    WarmupCosine {
        /// Length of the warm-up in epochs, fractions allowed, at least 0.
        warmup_epochs: f64,
        /// The rate at the end, absolute (not a fraction of the base), at least 0. Default 0.
        #[serde(default)]
        end: f64,
        /// The rate of the first step of the warm-up, absolute, at least 0. Default 0 (SwAV: 0.3).
        #[serde(default)]
        start: f64,
    },
    /// The base rate times `gamma` for each milestone reached, changing at epochs (MoCo's linear probe: 60 and 80 of
    /// 100, 0.1). Epoch `m`, counted from 0, is the first with the rate that milestone `m` brings.
    Step {
        /// Epochs, strictly ascending.
        milestones: Vec<u64>,
        /// Factor, above 0.
        gamma: f64,
    },
    /// The base rate times `factors[i]` from epoch `milestones[i]` on (InvaSpread: 0.1, 0.05, 0.01).
    Factors {
        /// Epochs, strictly ascending.
        milestones: Vec<u64>,
        /// One factor of the base rate for each milestone, above 0.
        factors: Vec<f64>,
    },
    /// `base * (1 + cos(π epoch / epochs)) / 2`, changing at epochs (MoCo v2, SimSiam; PyTorch's `CosineAnnealingLR`
    /// stepped once an epoch).
    CosinePerEpoch {},
    /// From the base rate in a straight line to `end`, changing at every step (IMPALA): step `s` of `T` gets
    /// `base + (end - base) s / T`, so `end` would be reached by step `T`, one after the last.
    Linear {
        /// The rate at the end, absolute, at least 0. Default 0.
        #[serde(default)]
        end: f64,
    },
}

impl Schedule {
    /// Checks every range. `at` is where these settings stand in the whole configuration (`optim.schedule`).
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and the allowed range.
    pub fn check(&self, at: &str) -> Result<()> {
        match self {
            Self::Constant {} | Self::CosinePerEpoch {} => Ok(()),
            Self::Linear { end } => {
                require(*end >= 0.0 && end.is_finite(), at, "end", "at least 0 and finite", *end)
            }
            Self::WarmupCosine { warmup_epochs, end, start } => {
                for (key, value) in [("warmup_epochs", *warmup_epochs), ("end", *end), ("start", *start)] {
                    require(value >= 0.0 && value.is_finite(), at, key, "at least 0 and finite", value)?;
                }
                Ok(())
            }
            Self::Factors { milestones, factors } => {
                ascending(milestones, at)?;
                if milestones.len() != factors.len() {
                    let reason = format!("{} for {} milestones", factors.len(), milestones.len());
                    return Err(Error::config(format!("{at}.factors"), reason));
                }
                factors.iter().try_for_each(|&factor| {
                    require(factor > 0.0 && factor.is_finite(), at, "factors", "above 0 and finite", factor)
                })
            }
            Self::Step { milestones, gamma } => {
                ascending(milestones, at)?;
                require(*gamma > 0.0 && gamma.is_finite(), at, "gamma", "above 0 and finite", *gamma)
            }
        }
    }

    /// The rate of the step that `progress` is about to make (its `step` counts the steps already done).
    pub fn lr_at(&self, progress: &Progress, base: f64) -> f64 {
        match self {
            Self::Constant {} => base,
            Self::WarmupCosine { warmup_epochs, end, start } => {
                let warmup = (warmup_epochs * progress.steps_per_epoch as f64).round();
                let step = progress.step as f64;
                if step < warmup {
                    start + (base - start) * step / warmup
                } else {
                    cosine(base, *end, step - warmup, progress.total_steps as f64 - warmup)
                }
            }
            Self::Step { milestones, gamma } => {
                let reached = milestones.iter().filter(|&&milestone| milestone <= progress.epoch).count();
                base * gamma.powf(reached as f64)
            }
            Self::Factors { milestones, factors } => {
                let reached = milestones.iter().zip(factors).rfind(|(m, _)| **m <= progress.epoch);
                base * reached.map_or(1.0, |(_, factor)| *factor)
            }
            Self::Linear { end } => {
                let done = progress.step as f64 / (progress.total_steps as f64).max(1.0);
                base + (end - base) * done.min(1.0)
            }
            Self::CosinePerEpoch {} => cosine(base, 0.0, progress.epoch as f64, progress.total_epochs as f64),
        }
    }
}

fn ascending(milestones: &[u64], at: &str) -> Result<()> {
    if milestones.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let reason = format!("must be strictly ascending epochs, got {milestones:?}");
    Err(Error::config(format!("{at}.milestones"), reason))
}

/// How the base rate follows the global batch size `B`; in a file, the table's `kind` is `"none"`, `"linear"` or
/// `"sqrt"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LrScaling {
    /// The rate as it is written.
    #[default]
    None,
    /// `rate * B / reference_batch` (Goyal et al. 2017; SimCLR: `0.3 B / 256`).
    Linear {
        /// The batch for which the rate was written, at least 1 (256 in nearly all papers).
        reference_batch: u64,
    },
    /// `rate * sqrt(B)` (SimCLR, appendix B.1: `0.075 sqrt(B)`, better for small batches).
    Sqrt,
}

impl LrScaling {
    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and the allowed range.
    pub fn check(self, at: &str) -> Result<()> {
        match self {
            Self::Linear { reference_batch: 0 } => {
                Err(Error::config(format!("{at}.reference_batch"), "must be at least 1, got 0"))
            }
            _ => Ok(()),
        }
    }

    /// The scaled rate for a global batch (over all ranks) of `batch` samples.
    pub fn scale(self, rate: f64, batch: u64) -> f64 {
        match self {
            Self::None => rate,
            Self::Linear { reference_batch } => rate * batch as f64 / reference_batch as f64,
            Self::Sqrt => rate * (batch as f64).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(step: u64) -> Progress {
        Progress { seed: 0, step, total_steps: 100, epoch: step / 10, total_epochs: 10, steps_per_epoch: 10 }
    }

    #[test]
    fn warm_up_then_cosine_step_by_step() {
        let schedule = Schedule::WarmupCosine { warmup_epochs: 2.0, end: 0.1, start: 0.0 };
        let lr = |step| schedule.lr_at(&at(step), 1.0);
        assert_eq!((lr(0), lr(1), lr(19), lr(20)), (0.0, 0.05, 0.95, 1.0));
        assert!((lr(60) - 0.55).abs() < 1e-12, "half way between base and end");
        assert!(lr(99) > 0.1 && lr(99) < 0.1004 && (lr(100) - 0.1).abs() < 1e-12);
        let none = Schedule::WarmupCosine { warmup_epochs: 0.0, end: 0.0, start: 0.5 };
        assert_eq!(none.lr_at(&at(0), 1.0), 1.0);
        let raised = Schedule::WarmupCosine { warmup_epochs: 2.0, end: 0.0, start: 0.5 };
        assert_eq!((raised.lr_at(&at(0), 1.0), raised.lr_at(&at(10), 1.0)), (0.5, 0.75));
        let only = Schedule::WarmupCosine { warmup_epochs: 20.0, end: 0.0, start: 0.0 };
        assert_eq!(only.lr_at(&at(99), 2.0), 0.99);
    }

    #[test]
    fn epochs_and_milestones() {
        let step = Schedule::Step { milestones: vec![3, 6], gamma: 0.1 };
        let rates: Vec<f64> = [29, 30, 59, 60].iter().map(|&s| step.lr_at(&at(s), 1.0)).collect();
        assert!((rates[0] - 1.0).abs() + (rates[1] - 0.1).abs() < 1e-12);
        assert!((rates[2] - 0.1).abs() + (rates[3] - 0.01).abs() < 1e-12);
        let factors = Schedule::Factors { milestones: vec![3, 6], factors: vec![0.1, 0.05] };
        let rates: Vec<f64> = [29, 30, 59, 60].iter().map(|&s| factors.lr_at(&at(s), 2.0)).collect();
        assert_eq!(rates, [2.0, 0.2, 0.2, 0.1]);
        let cosine = Schedule::CosinePerEpoch {};
        assert_eq!(cosine.lr_at(&at(10), 1.0), cosine.lr_at(&at(19), 1.0));
        assert_eq!(Schedule::Constant {}.lr_at(&at(42), 0.3), 0.3);
        let linear = Schedule::Linear { end: 0.5 };
        assert_eq!([0, 50, 100].map(|s| linear.lr_at(&at(s), 1.0)), [1.0, 0.75, 0.5]);
        assert!(Schedule::Linear { end: -1.0 }.check("optim.schedule").is_err());
    }

    #[test]
    fn batch_scaling() {
        assert!((LrScaling::Linear { reference_batch: 256 }.scale(0.3, 4096) - 4.8).abs() < 1e-12);
        assert!((LrScaling::Sqrt.scale(0.075, 4096) - 4.8).abs() < 1e-12);
        assert_eq!(LrScaling::None.scale(0.3, 4096), 0.3);
        assert!(LrScaling::Linear { reference_batch: 0 }.check("optim.scaling").is_err());
    }

    #[test]
    fn files_are_read_strictly() -> Result<(), toml::de::Error> {
        let read: Schedule = toml::from_str("kind = \"warmup-cosine\"\nwarmup_epochs = 10")?;
        assert_eq!(read, Schedule::WarmupCosine { warmup_epochs: 10.0, end: 0.0, start: 0.0 });
        assert!(toml::from_str::<Schedule>("kind = \"constant\"\nend = 1.0").is_err());
        assert!(toml::from_str::<Schedule>("kind = \"warmup-cosine\"\nwarm = 1.0").is_err());
        let read: LrScaling = toml::from_str("kind = \"linear\"\nreference_batch = 256")?;
        assert_eq!(read, LrScaling::Linear { reference_batch: 256 });
        let text = toml::to_string(&Schedule::CosinePerEpoch {}).unwrap_or_default();
        assert_eq!(toml::from_str::<Schedule>(&text)?, Schedule::CosinePerEpoch {});
        let faulty = Schedule::Step { milestones: vec![5, 5], gamma: 0.1 };
        let message = faulty.check("optim.schedule").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("optim.schedule.milestones"), "{message}");
        Ok(())
    }
}
