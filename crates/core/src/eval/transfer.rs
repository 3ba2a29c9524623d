//! Transfer by logistic regression whose penalty is chosen on held-out samples (Kornblith et al. 2019; SimCLR,
//! appendix B.8).

use super::features::Features;
use super::logistic::{LogisticConfig, SweepPoint, fit_logistic, lbfgs_sweep, simclr_strengths};
use super::metrics::{Metric, Metrics};
use super::split::hold_out;
use crate::Result;

/// The share of every class that the strength of the penalty is chosen on.
const HELD_OUT: f64 = 0.2;

/// `transfer-lbfgs-v1` on sets that were checked.
pub(super) fn evaluate(train: &Features, test: &Features) -> Result<Metrics> {
    let classes = train.classes().max(test.classes());
    let config = LogisticConfig::v1();
    let parts = hold_out("train features", &train.labels, HELD_OUT, 0)?;
    let (rest, held) = (train.select(&parts.rest), train.select(&parts.held));
    let points = lbfgs_sweep(&rest, &held, &simclr_strengths(), &config)?;
    let chosen = best(&points);
    let fit = fit_logistic(train, classes, &LogisticConfig { c: 1.0 / chosen.0, ..config }, None)?;
    let mut metrics = fit.classifier().predict(test)?.metrics();
    metrics.push(Metric::setting("l2", chosen.0));
    metrics.push(Metric::fraction("held-out-top1", chosen.1));
    metrics.push(Metric::count("iterations", fit.iterations));
    metrics.push(Metric::count("converged", usize::from(fit.converged)));
    Ok(metrics)
}

/// Strength and accuracy of the best point; of equally good ones the strongest penalty.
fn best(points: &[SweepPoint]) -> (f64, f64) {
    let better = |best: (f64, f64), p: &SweepPoint| {
        let wins = p.top1 > best.1 || (p.top1 == best.1 && p.l2 > best.0);
        if wins { (p.l2, p.top1) } else { best }
    };
    points.iter().fold((1.0, -1.0), better)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equally_good_strengths_the_strongest_counts() {
        let point = |l2: f64, top1: f64| SweepPoint { l2, top1, iterations: 1, converged: true };
        assert_eq!(best(&[point(0.1, 0.8), point(1.0, 0.8), point(10.0, 0.7)]), (1.0, 0.8));
        assert_eq!(best(&[point(10.0, 0.0), point(0.1, 0.0)]), (10.0, 0.0));
    }
}
