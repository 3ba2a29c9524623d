//! t-SNE (van der Maaten and Hinton 2008) in its exact form, as scikit-learn computes it with `method="exact"`.

use rayon::prelude::*;

use super::features::Features;
use crate::rng::{Key, Purpose};
use crate::{Error, Result};

/// More samples would need more than 800 MB for their similarities.
const MOST: usize = 10_000;

/// Settings of [`tsne`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TsneConfig {
    /// The effective number of neighbours of each sample, at least 1 and below the number of samples.
    pub perplexity: f64,
    /// Steps of gradient descent.
    pub iterations: usize,
    /// Factor of the similarities in the first 250 steps.
    pub exaggeration: f64,
    /// Names the streams of the beginning.
    pub seed: u64,
}

impl Default for TsneConfig {
    /// scikit-learn's: perplexity 30, 1000 steps, exaggeration 12.
    fn default() -> Self {
        Self { perplexity: 30.0, iterations: 1000, exaggeration: 12.0, seed: 0 }
    }
}

/// An embedding in the plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Tsne {
    /// A point for each sample.
    pub points: Vec<[f64; 2]>,
    /// The Kullback-Leibler divergence that was minimised, in nats.
    pub divergence: f64,
}

/// Places similar samples near each other in the plane. The beginning is the first two principal components, scaled to a
/// deviation of 1e-4; the learning rate is `max(n / exaggeration / 4, 50)`; momentum 0.5, later 0.8, with a gain for
/// each coordinate. Time and memory grow with the square of the number of samples (2,000: seconds); the points are the
/// same to the bit for any number of threads. Labels are not looked at.
///
/// # Errors
/// [`Error::Config`] for settings out of range, [`Error::Data`] for more than 10,000 samples.
pub fn tsne(features: &Features, config: &TsneConfig) -> Result<Tsne> {
    let n = features.n;
    if n > MOST {
        return Err(Error::data("t-SNE", format!("{n} samples; at most {MOST} fit in memory")));
    }
    if !(config.perplexity >= 1.0 && config.perplexity < n as f64) {
        let reason = format!("must be at least 1 and below the {n} samples, got {}", config.perplexity);
        return Err(Error::config("tsne.perplexity", reason));
    }
    if !(config.exaggeration >= 1.0 && config.exaggeration.is_finite()) {
        let reason = format!("must be at least 1, got {}", config.exaggeration);
        return Err(Error::config("tsne.exaggeration", reason));
    }
    let similarities = joint(features, config.perplexity);
    let start = principal(features, Key::new(config.seed, Purpose::Eval).name("tsne"));
    let points = descend(&similarities, start, config);
    let divergence = divergence(&similarities, &points);
    Ok(Tsne { points, divergence })
}

/// The symmetric joint probabilities `[n, n]`; they sum to 1.
pub(super) fn joint(features: &Features, perplexity: f64) -> Vec<f64> {
    let (n, dim) = (features.n, features.dim);
    let target = perplexity.ln();
    let mut conditional = vec![0f64; n * n];
    conditional.par_chunks_exact_mut(n).enumerate().for_each(|(i, row)| {
        let own = features.row(i);
        for (distance, other) in row.iter_mut().zip(features.data.chunks_exact(dim)) {
            *distance = own.iter().zip(other).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        }
        to_probabilities(row, i, target);
    });
    let mut joint = vec![0f64; n * n];
    joint.par_chunks_exact_mut(n).enumerate().for_each(|(i, row)| {
        for (j, p) in row.iter_mut().enumerate() {
            let sum = conditional[i * n + j] + conditional[j * n + i];
            *p = if i == j { 0.0 } else { (sum / (2.0 * n as f64)).max(f64::EPSILON) };
        }
    });
    joint
}

/// Turns the squared distances of sample `own` into probabilities whose entropy is `target` nats.
fn to_probabilities(row: &mut [f64], own: usize, target: f64) {
    let distances = row.to_vec();
    let (mut low, mut high, mut precision) = (f64::NEG_INFINITY, f64::INFINITY, 1.0);
    for _ in 0..100 {
        let mut sum = 0.0;
        for (j, (p, d)) in row.iter_mut().zip(&distances).enumerate() {
            *p = if j == own { 0.0 } else { (-d * precision).exp() };
            sum += *p;
        }
        let sum = if sum == 0.0 { 1e-8 } else { sum };
        let mut mean = 0.0;
        for (p, d) in row.iter_mut().zip(&distances) {
            *p /= sum;
            mean += *p * d;
        }
        let gap = sum.ln() + precision * mean - target;
        if gap.abs() <= 1e-5 {
            break;
        }
        if gap > 0.0 {
            low = precision;
            precision = if high.is_infinite() { precision * 2.0 } else { (precision + high) / 2.0 };
        } else {
            high = precision;
            precision = if low.is_infinite() { precision / 2.0 } else { (precision + low) / 2.0 };
        }
    }
}

/// The first two principal components, scaled so that the first has a standard deviation of 1e-4. A component without
/// any spread is replaced by noise of that deviation, from which the descent can leave.
fn principal(features: &Features, key: Key) -> Vec<[f64; 2]> {
    let (n, dim) = (features.n, features.dim);
    let mean: Vec<f64> = (0..dim)
        .map(|d| features.data.iter().skip(d).step_by(dim).map(|&x| f64::from(x)).sum::<f64>() / n as f64)
        .collect();
    let score = |v: &[f64], i: usize| -> f64 {
        features.row(i).iter().zip(&mean).zip(v).map(|((&x, m), v)| (f64::from(x) - m) * v).sum()
    };
    let mut axes: Vec<Vec<f64>> = Vec::new();
    let mut columns: Vec<Vec<f64>> = Vec::new();
    for component in 0..2 {
        let mut stream = key.view(component).stream();
        let mut axis: Vec<f64> = (0..dim).map(|_| stream.normal()).collect();
        let mut spread = 0.0;
        // Power iteration on the covariance, kept orthogonal to the component before.
        for _ in 0..300 {
            for before in &axes {
                let shared: f64 = before.iter().zip(&axis).map(|(a, b)| a * b).sum();
                axis.iter_mut().zip(before).for_each(|(a, b)| *a -= shared * b);
            }
            let norm = axis.iter().map(|a| a * a).sum::<f64>().sqrt();
            if norm < 1e-300 {
                break;
            }
            axis.iter_mut().for_each(|a| *a /= norm);
            let scores: Vec<f64> = (0..n).into_par_iter().map(|i| score(&axis, i)).collect();
            let grown = scores.iter().map(|s| s * s).sum::<f64>();
            let settled = (grown - spread).abs() <= 1e-12 * grown;
            spread = grown;
            if settled {
                break;
            }
            let next = |d: usize| -> f64 {
                let column = features.data.iter().skip(d).step_by(dim);
                column.zip(&scores).map(|(&x, s)| (f64::from(x) - mean[d]) * s).sum()
            };
            axis = (0..dim).into_par_iter().map(next).collect();
        }
        let norm = axis.iter().map(|a| a * a).sum::<f64>().sqrt().max(1e-300);
        axis.iter_mut().for_each(|a| *a /= norm);
        columns.push((0..n).map(|i| score(&axis, i)).collect());
        axes.push(axis);
    }
    let deviation = |column: &[f64]| (column.iter().map(|x| x * x).sum::<f64>() / n as f64).sqrt();
    let first = deviation(&columns[0]);
    for (c, column) in columns.iter_mut().enumerate() {
        if deviation(column) > 1e-9 * first.max(1e-30) {
            column.iter_mut().for_each(|x| *x *= 1e-4 / first);
        } else {
            let mut stream = key.view(2 + c as u64).stream();
            column.iter_mut().for_each(|x| *x = 1e-4 * stream.normal());
        }
    }
    (0..n).map(|i| [columns[0][i], columns[1][i]]).collect()
}

/// For a point the attraction and the repulsion (not yet normalised) and its part of the normaliser.
fn forces(similarities: &[f64], points: &[[f64; 2]], i: usize) -> [f64; 5] {
    let n = points.len();
    let [x, y] = points[i];
    let mut sums = [0f64; 5];
    for (p, other) in similarities[i * n..][..n].iter().zip(points) {
        let (dx, dy) = (x - other[0], y - other[1]);
        let near = 1.0 / (1.0 + dx * dx + dy * dy);
        let (pull, push) = (p * near, near * near);
        let terms = [pull * dx, pull * dy, push * dx, push * dy, near];
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
    }
    // The point itself is at distance 0.
    sums[4] -= 1.0;
    sums
}

fn descend(similarities: &[f64], mut points: Vec<[f64; 2]>, config: &TsneConfig) -> Vec<[f64; 2]> {
    const EXAGGERATED: usize = 250;
    let n = points.len();
    let rate = (n as f64 / config.exaggeration / 4.0).max(50.0);
    let mut steps = vec![[0f64; 2]; n];
    let mut gains = vec![[1f64; 2]; n];
    for iteration in 0..config.iterations {
        let early = iteration < EXAGGERATED;
        let (factor, momentum) = if early { (config.exaggeration, 0.5) } else { (1.0, 0.8) };
        let sums: Vec<[f64; 5]> = (0..n).into_par_iter().map(|i| forces(similarities, &points, i)).collect();
        let normaliser: f64 = sums.iter().map(|s| s[4]).sum::<f64>().max(f64::MIN_POSITIVE);
        let each = points.iter_mut().zip(&mut steps).zip(&mut gains).zip(&sums);
        for (((point, step), gain), sums) in each {
            for c in 0..2 {
                let gradient = 4.0 * (factor * sums[c] - sums[2 + c] / normaliser);
                let against = step[c] * gradient < 0.0;
                gain[c] = (if against { gain[c] + 0.2 } else { gain[c] * 0.8 }).max(0.01);
                step[c] = momentum * step[c] - rate * gain[c] * gradient;
                point[c] += step[c];
            }
        }
    }
    points
}

fn divergence(similarities: &[f64], points: &[[f64; 2]]) -> f64 {
    let n = points.len();
    let near = |i: usize, j: usize| {
        let (dx, dy) = (points[i][0] - points[j][0], points[i][1] - points[j][1]);
        if i == j { 0.0 } else { 1.0 / (1.0 + dx * dx + dy * dy) }
    };
    let rows: Vec<f64> = (0..n).into_par_iter().map(|i| (0..n).map(|j| near(i, j)).sum()).collect();
    let normaliser: f64 = rows.iter().sum();
    let row = |i: usize| -> f64 {
        let term = |j: usize| {
            let (p, q) = (similarities[i * n + j], (near(i, j) / normaliser).max(f64::EPSILON));
            if i == j { 0.0 } else { p * (p / q).ln() }
        };
        (0..n).map(term).sum()
    };
    (0..n).into_par_iter().map(row).collect::<Vec<f64>>().iter().sum()
}
