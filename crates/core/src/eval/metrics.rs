//! Figures over predictions: accuracy, accuracy by class, the confusion matrix.

use serde::{Deserialize, Serialize};

/// One figure of a protocol, ready for a table row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// `top1`, `top5`, `mean-class`, `recall@1`, `nmi`, or a quantity that qualifies them (`k`, `iterations`).
    pub name: String,
    /// The value in `unit`; accuracies are fractions in 0..=1.
    pub value: f64,
    /// `fraction`, `count`, `nats` or `setting`.
    pub unit: String,
}

impl Metric {
    fn new(name: &str, value: f64, unit: &str) -> Self {
        Self { name: name.to_string(), value, unit: unit.to_string() }
    }

    /// A fraction in 0..=1.
    pub fn fraction(name: &str, value: f64) -> Self {
        Self::new(name, value, "fraction")
    }

    /// A whole number.
    pub fn count(name: &str, value: usize) -> Self {
        Self::new(name, value as f64, "count")
    }

    /// A loss with the natural logarithm.
    pub fn nats(name: &str, value: f64) -> Self {
        Self::new(name, value, "nats")
    }

    /// A setting that the protocol chose on held-out samples (a learning rate, the strength of a penalty).
    pub fn setting(name: &str, value: f64) -> Self {
        Self::new(name, value, "setting")
    }
}

/// What a protocol gives back. Classifiers give `top1` first.
pub type Metrics = Vec<Metric>;

/// The value of a metric by name.
pub fn metric(metrics: &[Metric], name: &str) -> Option<f64> {
    metrics.iter().find(|m| m.name == name).map(|m| m.value)
}

/// What a classifier said about each sample of a test set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predictions {
    classes: usize,
    labels: Vec<u32>,
    outcomes: Vec<Outcome>,
}

/// The answer for one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The class with the highest score.
    pub predicted: u32,
    /// How many classes stand before the true one (0: right).
    pub rank: u32,
}

impl Outcome {
    /// From one score per class. Of equal scores the lower class stands first, so that outcomes never depend on the
    /// order of evaluation.
    pub fn from_scores<T: Copy + PartialOrd>(scores: &[T], label: u32) -> Self {
        let mut predicted = 0;
        for (class, score) in scores.iter().enumerate() {
            if *score > scores[predicted] {
                predicted = class;
            }
        }
        let rank = match scores.get(label as usize) {
            Some(own) => scores
                .iter()
                .enumerate()
                .filter(|&(class, score)| score > own || (score == own && class < label as usize))
                .count(),
            None => scores.len(),
        };
        Self { predicted: predicted as u32, rank: rank as u32 }
    }
}

impl Predictions {
    /// From the labels of the test set and one outcome per sample, in the same order. `classes` bounds labels and
    /// predictions.
    pub fn new(classes: usize, labels: &[u32], outcomes: Vec<Outcome>) -> Self {
        Self { classes, labels: labels.to_vec(), outcomes }
    }

    /// One outcome per sample.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// The fraction of samples whose true class is among the first `k`.
    pub fn top(&self, k: usize) -> f64 {
        let hits = self.outcomes.iter().filter(|o| (o.rank as usize) < k).count();
        hits as f64 / self.outcomes.len().max(1) as f64
    }

    /// Accuracy of each class; `None` for a class without a sample.
    pub fn per_class(&self) -> Vec<Option<f64>> {
        let confusion = self.confusion();
        (0..self.classes)
            .map(|class| {
                let row = confusion.row(class);
                let total: u64 = row.iter().sum();
                (total > 0).then(|| row[class] as f64 / total as f64)
            })
            .collect()
    }

    /// The mean of [`Predictions::per_class`] over the classes that have samples (torchvision's and VTAB's
    /// "mean per-class accuracy", scikit-learn's `balanced_accuracy_score`).
    pub fn mean_class(&self) -> f64 {
        let present: Vec<f64> = self.per_class().into_iter().flatten().collect();
        present.iter().sum::<f64>() / present.len().max(1) as f64
    }

    /// Counts of true against predicted classes.
    pub fn confusion(&self) -> Confusion {
        let mut counts = vec![0; self.classes * self.classes];
        for (label, outcome) in self.labels.iter().zip(&self.outcomes) {
            if let Some(count) = counts.get_mut(*label as usize * self.classes + outcome.predicted as usize) {
                *count += 1;
            }
        }
        Confusion { classes: self.classes, counts }
    }

    /// `top1`, `top5` (only with more than five classes, as it is 1 otherwise) and `mean-class`.
    pub fn metrics(&self) -> Metrics {
        let mut metrics = vec![Metric::fraction("top1", self.top(1))];
        if self.classes > 5 {
            metrics.push(Metric::fraction("top5", self.top(5)));
        }
        metrics.push(Metric::fraction("mean-class", self.mean_class()));
        metrics
    }
}

/// A confusion matrix: rows are true classes, columns are predicted ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

impl Confusion {
    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The samples of one true class by predicted class. Empty for a class out of range.
    pub fn row(&self, class: usize) -> &[u64] {
        self.counts.get(class * self.classes..(class + 1) * self.classes).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_ties() {
        let scores = [0.1f32, 0.7, 0.7, 0.0];
        assert_eq!(Outcome::from_scores(&scores, 1), Outcome { predicted: 1, rank: 0 });
        assert_eq!(Outcome::from_scores(&scores, 2), Outcome { predicted: 1, rank: 1 });
        assert_eq!(Outcome::from_scores(&scores, 3), Outcome { predicted: 1, rank: 3 });
        assert_eq!(Outcome::from_scores(&scores, 9), Outcome { predicted: 1, rank: 4 });
    }

    #[test]
    fn accuracies_of_a_small_case() {
        // Class 0: 3 of 4 right, class 1: 0 of 1, class 2 has no sample.
        let labels = [0, 0, 0, 0, 1];
        let said = [0, 0, 0, 2, 0];
        let outcomes = said
            .iter()
            .zip(labels)
            .map(|(&predicted, label)| Outcome { predicted, rank: u32::from(predicted != label) })
            .collect();
        let p = Predictions::new(3, &labels, outcomes);
        assert_eq!(p.top(1), 0.6);
        assert_eq!(p.top(2), 1.0);
        assert_eq!(p.per_class(), vec![Some(0.75), Some(0.0), None]);
        assert_eq!(p.mean_class(), 0.375);
        let confusion = p.confusion();
        assert_eq!(confusion.row(0), [3, 0, 1]);
        assert_eq!(confusion.row(1), [1, 0, 0]);
        assert_eq!(confusion.row(2), [0, 0, 0]);
        assert_eq!(metric(&p.metrics(), "top1"), Some(0.6));
        assert_eq!(metric(&p.metrics(), "top5"), None);
    }
}
