//! How well clusters of features agree with classes: k-means and normalised mutual information.

use std::collections::HashMap;

use rayon::prelude::*;

use super::features::Features;
use super::knn::nearest;
use super::metrics::{Metric, Metrics};
use crate::rng::{Key, Purpose};
use crate::{Error, Result};

/// Rows per unit of work. Fixed, so that sums do not depend on the number of threads.
const ROWS: usize = 1024;

/// Settings of [`kmeans`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KMeansConfig {
    /// Clusters.
    pub clusters: usize,
    /// Beginnings by k-means++; the one that ends with the least inertia counts.
    pub restarts: usize,
    /// Iterations of Lloyd's algorithm at most.
    pub max_iterations: usize,
    /// Converged when the centres' squared movement, summed, is at most this times the mean variance of a dimension, or
    /// when no sample changes its cluster (scikit-learn's rules).
    pub tolerance: f64,
    /// Names the streams of the beginnings.
    pub seed: u64,
}

impl KMeansConfig {
    /// The settings of `cluster-nmi-v1`: 10 restarts, at most 300 iterations, tolerance 1e-4, seed 0.
    pub fn v1(clusters: usize) -> Self {
        Self { clusters, restarts: 10, max_iterations: 300, tolerance: 1e-4, seed: 0 }
    }
}

/// A clustering.
#[derive(Debug, Clone, PartialEq)]
pub struct KMeans {
    /// The cluster of each sample.
    pub labels: Vec<u32>,
    /// Centres, `[clusters, dim]` row by row.
    pub centres: Vec<f32>,
    /// Sum of squared distances of the samples from their centres.
    pub inertia: f64,
    /// Iterations made.
    pub iterations: usize,
}

/// k-means by Lloyd's algorithm from k-means++ beginnings (Arthur and Vassilvitskii 2007), the same to the bit for any
/// number of threads. Of equally near centres the lower counts; a cluster that loses all its samples begins anew at the
/// sample that is farthest from its centre.
///
/// # Errors
/// [`Error::Config`] for no cluster, no restart, or more clusters than samples.
pub fn kmeans(features: &Features, config: &KMeansConfig) -> Result<KMeans> {
    let KMeansConfig { clusters, restarts, .. } = *config;
    if clusters == 0 || clusters > features.n {
        let reason = format!("must be in 1..={}, the number of samples; got {clusters}", features.n);
        return Err(Error::config("kmeans.clusters", reason));
    }
    if restarts == 0 {
        return Err(Error::config("kmeans.restarts", "must be at least 1"));
    }
    let mut best: Option<KMeans> = None;
    for restart in 0..restarts {
        let key = Key::new(config.seed, Purpose::Eval).name("kmeans").view(restart as u64);
        let found = lloyd(features, plus_plus(features, clusters, key), config);
        if best.as_ref().is_none_or(|best| found.inertia < best.inertia) {
            best = Some(found);
        }
    }
    best.ok_or_else(|| Error::config("kmeans.restarts", "must be at least 1"))
}

fn square_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// Centres drawn one by one with probability proportional to the squared distance from those before.
fn plus_plus(features: &Features, clusters: usize, key: Key) -> Vec<f32> {
    let (n, dim) = (features.n, features.dim);
    let mut stream = key.stream();
    let mut chosen = stream.below(n as u64) as usize;
    let mut centres = features.row(chosen).to_vec();
    let mut distances = vec![f64::INFINITY; n];
    while centres.len() < clusters * dim {
        let centre = features.row(chosen);
        distances.par_chunks_mut(ROWS).zip(features.data.par_chunks(ROWS * dim)).for_each(|(d, rows)| {
            for (d, row) in d.iter_mut().zip(rows.chunks_exact(dim)) {
                *d = d.min(square_distance(row, centre));
            }
        });
        let mut left = stream.unit() * distances.iter().sum::<f64>();
        // Rounding may leave something over: then the last sample that is not a centre already.
        let reached = |&d: &f64| {
            left -= d;
            left < 0.0
        };
        let last = || distances.iter().rposition(|&d| d > 0.0).unwrap_or(n - 1);
        chosen = distances.iter().position(reached).unwrap_or_else(last);
        centres.extend_from_slice(features.row(chosen));
    }
    centres
}

/// The nearest centre of each sample: the largest `x·c - |c|²/2`, a dot product in one more dimension.
fn assign(augmented: &Features, centres: &[f32], dim: usize) -> Vec<u32> {
    let half = |centre: &[f32]| centre.iter().map(|&c| f64::from(c).powi(2)).sum::<f64>() as f32 * -0.5;
    let data: Vec<f32> = centres.chunks_exact(dim).flat_map(|c| c.iter().copied().chain([half(c)])).collect();
    let n = centres.len() / dim;
    let centres = Features { data, n, dim: dim + 1, labels: Vec::new() };
    nearest(&centres, augmented, 1).iter().map(|near| near.first().map_or(0, |n| n.index)).collect()
}

/// Lloyd's algorithm from the given centres.
pub(super) fn lloyd(features: &Features, mut centres: Vec<f32>, config: &KMeansConfig) -> KMeans {
    let dim = features.dim;
    let data: Vec<f32> =
        features.data.chunks_exact(dim).flat_map(|row| row.iter().copied().chain([1.0])).collect();
    let augmented = Features { data, n: features.n, dim: dim + 1, labels: Vec::new() };
    let bound = config.tolerance * mean_variance(features);
    let mut labels = assign(&augmented, &centres, dim);
    let mut iterations = 0;
    while iterations < config.max_iterations {
        iterations += 1;
        let moved = means(features, &labels, &centres);
        let movement: f64 = square_distance(&moved, &centres);
        centres = moved;
        let next = assign(&augmented, &centres, dim);
        let still = next == labels;
        labels = next;
        if still || movement <= bound {
            break;
        }
    }
    let distance =
        |(row, &label): (&[f32], &u32)| square_distance(row, &centres[label as usize * dim..][..dim]);
    let inertia = features.data.chunks_exact(dim).zip(&labels).map(distance).sum();
    KMeans { labels, centres, inertia, iterations }
}

/// The mean over dimensions of the (biased) variance.
fn mean_variance(features: &Features) -> f64 {
    let (n, dim) = (features.n as f64, features.dim);
    let variance = |d: usize| {
        let column = || features.data.iter().skip(d).step_by(dim).map(|&x| f64::from(x));
        let mean = column().sum::<f64>() / n;
        column().map(|x| (x - mean).powi(2)).sum::<f64>() / n
    };
    (0..dim).into_par_iter().map(variance).collect::<Vec<f64>>().iter().sum::<f64>() / dim as f64
}

/// The mean of each cluster's samples.
fn means(features: &Features, labels: &[u32], centres: &[f32]) -> Vec<f32> {
    let dim = features.dim;
    let mut members = vec![Vec::new(); centres.len() / dim];
    for (i, &label) in labels.iter().enumerate() {
        members[label as usize].push(i);
    }
    let empty: Vec<usize> = (0..members.len()).filter(|&c| members[c].is_empty()).collect();
    if !empty.is_empty() {
        let distance =
            |i: usize| square_distance(features.row(i), &centres[labels[i] as usize * dim..][..dim]);
        let mut far: Vec<(f64, usize)> = (0..features.n).map(|i| (distance(i), i)).collect();
        far.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (&cluster, &(_, sample)) in empty.iter().zip(&far) {
            members[labels[sample] as usize].retain(|&i| i != sample);
            members[cluster].push(sample);
        }
    }
    let mut moved = centres.to_vec();
    moved.par_chunks_exact_mut(dim).zip(&members).for_each(|(centre, members)| {
        if members.is_empty() {
            return;
        }
        let mut sum = vec![0f64; dim];
        for &i in members {
            sum.iter_mut().zip(features.row(i)).for_each(|(s, &x)| *s += f64::from(x));
        }
        centre.iter_mut().zip(sum).for_each(|(c, s)| *c = (s / members.len() as f64) as f32);
    });
    moved
}

/// Mutual information of two labellings of the same samples over the arithmetic mean of their entropies (Song et al.
/// 2016; scikit-learn's `normalized_mutual_info_score`): 0 for independent ones, 1 for equal ones up to names. Two
/// labellings without any information (one class, one cluster) count as equal, as in scikit-learn.
pub fn normalized_mutual_information(a: &[u32], b: &[u32]) -> f64 {
    let n = a.len().min(b.len()) as f64;
    let mut joint: HashMap<(u32, u32), f64> = HashMap::new();
    let (mut of_a, mut of_b): (HashMap<u32, f64>, HashMap<u32, f64>) = Default::default();
    for (&a, &b) in a.iter().zip(b) {
        *joint.entry((a, b)).or_default() += 1.0;
        *of_a.entry(a).or_default() += 1.0;
        *of_b.entry(b).or_default() += 1.0;
    }
    // In the order of the terms' size: a hash map's own order would give other last bits on every call.
    let sum = |mut terms: Vec<f64>| -> f64 {
        terms.sort_by(f64::total_cmp);
        terms.iter().sum()
    };
    let entropy = |counts: &HashMap<u32, f64>| sum(counts.values().map(|c| -c / n * (c / n).ln()).collect());
    let term = |((a, b), c): (&(u32, u32), &f64)| c / n * (c * n / (of_a[a] * of_b[b])).ln();
    let information = sum(joint.iter().map(term).collect()).max(0.0);
    let mean = 0.5 * (entropy(&of_a) + entropy(&of_b));
    if mean > 0.0 { (information / mean).min(1.0) } else { 1.0 }
}

/// `cluster-nmi-v1` on a set that was checked.
pub(super) fn evaluate(test: &Features) -> Result<Metrics> {
    let mut present = test.labels.clone();
    present.sort_unstable();
    present.dedup();
    let found = kmeans(&test.l2_normalized(), &KMeansConfig::v1(present.len()))?;
    Ok(vec![
        Metric::fraction("nmi", normalized_mutual_information(&test.labels, &found.labels)),
        Metric::count("clusters", present.len()),
        Metric::count("iterations", found.iterations),
    ])
}
