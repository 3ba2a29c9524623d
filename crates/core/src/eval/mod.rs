//! Named, versioned evaluation protocols: features and labels in, metrics out.
//!
//! A protocol's name ends in its version; whatever changes a number gets a new name. [`Protocol`] has the exact
//! definition of those on frozen features, [`crate::image_eval::ImageProtocol`] of those that train on images.

mod cache;
mod cluster;
mod features;
mod knn;
mod lbfgs;
pub(crate) mod linear;
mod logistic;
mod matrix;
pub(crate) mod metrics;
mod nearest;
mod online;
mod retrieval;
mod similarity;
mod skinny;
mod softmax;
pub(crate) mod split;
mod transfer;
mod tsne;

pub use cache::{CacheKey, FeatureCache};
pub use cluster::{KMeans, KMeansConfig, kmeans, normalized_mutual_information};
pub use features::{Features, Standardizer, extract, labelled};
pub use knn::{Knn, nearest};
pub use linear::{LinearClassifier, LinearConfig, LinearFit, LinearInit, LinearSchedule, train_linear};
pub use logistic::{LogisticConfig, LogisticFit, SweepPoint, fit_logistic, lbfgs_sweep, simclr_strengths};
pub use metrics::{Confusion, Metric, Metrics, Outcome, Predictions, metric};
pub use nearest::Neighbour;
pub use online::{OnlineConfig, OnlineProbe, OnlineReport};
pub use retrieval::recall_at;
pub use tsne::{Tsne, TsneConfig, tsne};

use crate::{Error, Result};

/// A protocol on frozen features. Classifiers report `top1`, `top5` (with more than five classes) and `mean-class` as
/// fractions.
///
/// | name | features | classifier | used by |
/// | --- | --- | --- | --- |
/// | `knn-k200-t0.1-v1` | l2-normalised | 200 nearest by cosine, weight `exp(cos / 0.1)`, summed per class | InstDisc and InvaSpread on CIFAR-10, MoCo's CIFAR-10 notebook, lightly's `knn_predict` defaults |
/// | `knn-k20-t0.07-v1` | l2-normalised | 20 nearest by cosine, weight `exp(cos / 0.07)`, summed per class | DINO |
/// | `linear-sgd-v1` | `(x - mean) / (std + 1e-6)` of the training set, unbiased std | softmax regression with bias, 100 epochs of SGD, batch 256, lr 0.05 with a cosine per epoch, momentum 0.9, no decay, PyTorch's initial weights, seed 0 | the usual probe without augmentation |
/// | `linear-lbfgs-v1` | as `linear-sgd-v1` | multinomial logistic regression by L-BFGS, C = 1, at most 500 iterations, tolerance 1e-4 | scikit-learn's `LogisticRegression(max_iter=500)`; the optimiser of SimCLR's transfer evaluation |
/// | `transfer-lbfgs-v1` | as they are | as `linear-lbfgs-v1`, but the penalty `l2 ‖W‖² / 2` beside the sum of the losses is the best of 45, log-spaced from 1e-6 to 1e5, on a fifth of every class of the training set; then fitted to all of it | SimCLR and BYOL, transfer |
/// | `retrieval-recall-v1` | l2-normalised, of the test set | the fraction of samples with one of their own class among the other samples' K nearest by cosine, K = 1, 2, 4, 8, 10, 100 | InvaSpread on CUB-200, Cars-196 (1 to 8), Products (1, 10, 100) |
/// | `cluster-nmi-v1` | l2-normalised, of the test set | k-means with as many clusters as classes (10 k-means++ beginnings, the least inertia), normalised mutual information with the classes | InvaSpread |
///
/// k is capped at the size of the training set; the kNN protocols report the k in use. `linear-sgd-v1` also reports the
/// mean `train-loss` of its last epoch, `linear-lbfgs-v1` its `iterations`, whether it `converged` (1 or 0) and its
/// `objective`; `transfer-lbfgs-v1` the chosen `l2` and its `held-out-top1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `knn-k200-t0.1-v1`.
    KnnK200T01V1,
    /// `knn-k20-t0.07-v1`.
    KnnK20T007V1,
    /// `linear-sgd-v1`.
    LinearSgdV1,
    /// `linear-lbfgs-v1`.
    LinearLbfgsV1,
    /// `transfer-lbfgs-v1`.
    TransferLbfgsV1,
    /// `retrieval-recall-v1`.
    RetrievalRecallV1,
    /// `cluster-nmi-v1`.
    ClusterNmiV1,
}

impl Protocol {
    /// The classifiers that every table has.
    pub fn all() -> &'static [Self] {
        &[Self::KnnK200T01V1, Self::KnnK20T007V1, Self::LinearSgdV1, Self::LinearLbfgsV1]
    }

    /// Those that are measured where they are asked for.
    pub fn further() -> &'static [Self] {
        &[Self::TransferLbfgsV1, Self::RetrievalRecallV1, Self::ClusterNmiV1]
    }

    /// Whether the protocol learns from the training set; those that do not look at the test set alone.
    pub fn needs_train(self) -> bool {
        !matches!(self, Self::RetrievalRecallV1 | Self::ClusterNmiV1)
    }

    /// The versioned name.
    pub fn name(self) -> &'static str {
        match self {
            Self::KnnK200T01V1 => "knn-k200-t0.1-v1",
            Self::KnnK20T007V1 => "knn-k20-t0.07-v1",
            Self::LinearSgdV1 => "linear-sgd-v1",
            Self::LinearLbfgsV1 => "linear-lbfgs-v1",
            Self::TransferLbfgsV1 => "transfer-lbfgs-v1",
            Self::RetrievalRecallV1 => "retrieval-recall-v1",
            Self::ClusterNmiV1 => "cluster-nmi-v1",
        }
    }

    /// The protocol of this name.
    ///
    /// # Errors
    /// [`Error::Config`] listing the known names.
    pub fn parse(name: &str) -> Result<Self> {
        let every = || Self::all().iter().chain(Self::further()).copied();
        every().find(|p| p.name() == name).ok_or_else(|| {
            let known: Vec<&str> = every().map(Self::name).collect();
            Error::config("eval.protocol", format!("`{name}` is unknown; known: {}", known.join(", ")))
        })
    }

    /// Learns from `train` and measures on `test`. The same to the bit for any number of threads. `train` is not looked
    /// at where [`Protocol::needs_train`] says no.
    ///
    /// # Errors
    /// [`Error::Data`] for an empty set, missing labels, sets of different width, a feature that is not finite, or
    /// fewer than two classes in `train`; [`Error::NonFinite`] when a probe diverges.
    pub fn evaluate(self, train: &Features, test: &Features) -> Result<Metrics> {
        if self.needs_train() {
            check_pair(train, test)?;
        } else {
            check_classes("test", test)?;
        }
        match self {
            Self::KnnK200T01V1 => Ok(evaluate_knn(Knn { k: 200, temperature: 0.1 }, train, test)),
            Self::KnnK20T007V1 => Ok(evaluate_knn(Knn { k: 20, temperature: 0.07 }, train, test)),
            Self::LinearSgdV1 => evaluate_linear(&LinearConfig::v1(), train, test),
            Self::LinearLbfgsV1 => evaluate_logistic(&LogisticConfig::v1(), train, test),
            Self::TransferLbfgsV1 => transfer::evaluate(train, test),
            Self::RetrievalRecallV1 => Ok(retrieval::evaluate(test)),
            Self::ClusterNmiV1 => cluster::evaluate(test),
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Checks that two sets can be evaluated together; see [`Protocol::evaluate`] for the errors.
fn check_pair(train: &Features, test: &Features) -> Result<()> {
    check_classes("train", train)?;
    test.check("test")?;
    if train.dim != test.dim {
        let reason = format!("width {} where the training set has {}", test.dim, train.dim);
        return Err(Error::data("test features", reason));
    }
    Ok(())
}

/// Checks a set by itself, and that it has two classes or more.
fn check_classes(name: &str, set: &Features) -> Result<()> {
    set.check(name)?;
    if set.labels.iter().all(|&label| label == set.labels[0]) {
        return Err(Error::data(format!("{name} features"), "only one class; two or more are needed"));
    }
    Ok(())
}

fn evaluate_knn(knn: Knn, train: &Features, test: &Features) -> Metrics {
    let mut metrics = knn.predict(train, test).metrics();
    metrics.push(Metric::count("k", knn.k.min(train.n)));
    metrics
}

/// Trains a linear probe by SGD under `config` and measures it, for settings other than `linear-sgd-v1`'s.
///
/// # Errors
/// As [`Protocol::evaluate`]; [`Error::Config`] for settings out of range.
pub fn evaluate_linear(config: &LinearConfig, train: &Features, test: &Features) -> Result<Metrics> {
    check_pair(train, test)?;
    let classes = train.classes().max(test.classes());
    let run = |train: &Features, test: &Features| -> Result<Metrics> {
        let fit = train_linear(train, classes, config)?;
        let mut metrics = fit.classifier.predict(test)?.metrics();
        metrics.push(Metric::nats("train-loss", fit.losses.last().copied().unwrap_or(f64::NAN)));
        Ok(metrics)
    };
    if !config.standardize {
        return run(train, test);
    }
    let standardizer = Standardizer::fit(train)?;
    run(&standardizer.apply(train)?, &standardizer.apply(test)?)
}

fn evaluate_logistic(config: &LogisticConfig, train: &Features, test: &Features) -> Result<Metrics> {
    let classes = train.classes().max(test.classes());
    let standardizer = Standardizer::fit(train)?;
    let fit = fit_logistic(&standardizer.apply(train)?, classes, config, None)?;
    let mut metrics = fit.classifier().predict(&standardizer.apply(test)?)?.metrics();
    metrics.push(Metric::count("iterations", fit.iterations));
    metrics.push(Metric::count("converged", usize::from(fit.converged)));
    metrics.push(Metric::nats("objective", fit.objective));
    Ok(metrics)
}

#[cfg(test)]
mod further_tests;
#[cfg(test)]
mod tests;
