//! Weighted k nearest neighbours of InstDisc (Wu et al., CVPR 2018, section 3.4), exact.

use rayon::prelude::*;

use super::features::Features;
use super::matrix::{Matrix, product};
use super::metrics::{Outcome, Predictions};

/// Queries per unit of work and training samples per tile: a tile of similarities (512 KiB) stays in a core's L2.
const QUERIES: usize = 256;
const TILE: usize = 512;

/// The classifier: features are l2-normalised, similarity is the cosine, the `k` most similar training samples vote
/// for their class with weight `exp(similarity / temperature)`; the class with the largest sum wins. Of equal
/// similarities the lower training index counts as nearer, of equal sums the lower class wins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Knn {
    /// Neighbours that vote (all, if the training set has fewer).
    pub k: usize,
    /// The temperature of the weights.
    pub temperature: f64,
}

/// A training sample and its similarity to a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Index in the training set.
    pub index: u32,
    /// Dot product with the query.
    pub similarity: f32,
}

impl Knn {
    /// Classifies every sample of `test`; features need not be normalised. The sets must have been checked
    /// ([`super::Protocol::evaluate`] does).
    pub fn predict(&self, train: &Features, test: &Features) -> Predictions {
        let classes = train.classes().max(test.classes());
        let near = nearest(&train.l2_normalized(), &test.l2_normalized(), self.k);
        let outcomes = near
            .par_iter()
            .zip(&test.labels)
            .map_init(
                || vec![0f64; classes],
                |scores, (near, &label)| {
                    scores.fill(0.0);
                    for n in near {
                        let class = train.labels[n.index as usize] as usize;
                        scores[class] += (f64::from(n.similarity) / self.temperature).exp();
                    }
                    Outcome::from_scores(scores, label)
                },
            )
            .collect();
        Predictions::new(classes, &test.labels, outcomes)
    }
}

/// The `k` rows of `train` with the largest dot product with each row of `queries`, nearest first; all rows, if there
/// are fewer. Exact, and the same for any number of threads. Both sets have the same width; elements are finite.
pub fn nearest(train: &Features, queries: &Features, k: usize) -> Vec<Vec<Neighbour>> {
    let k = k.min(train.n);
    let dim = train.dim.max(1);
    let blocks: Vec<Vec<Vec<Neighbour>>> = queries
        .data
        .par_chunks(QUERIES * dim)
        .map_init(
            || vec![0f32; QUERIES * TILE],
            |tile, block| {
                let rows = block.len() / dim;
                let mut best: Vec<Best> = (0..rows).map(|_| Best::new(k)).collect();
                for (t, part) in train.data.chunks(TILE * dim).enumerate() {
                    let width = part.len() / dim;
                    let right = Matrix::row_major(part, width, dim).transposed();
                    product(tile, Matrix::row_major(block, rows, dim), right);
                    for (best, similarities) in best.iter_mut().zip(tile.chunks_exact(width)) {
                        best.take(similarities, (t * TILE) as u32);
                    }
                }
                best.into_iter().map(Best::finish).collect()
            },
        )
        .collect();
    blocks.into_iter().flatten().collect()
}

/// The best `k` of a sequence. Candidates above the k-th best seen so far gather in a bounded buffer; when it is full
/// a selection drops all but `k` and raises the bar, which costs a constant per candidate where a heap costs log k.
struct Best {
    k: usize,
    bar: f32,
    // One integer per candidate, ordered as (similarity descending, index ascending).
    keys: Vec<u64>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, bar: f32::NEG_INFINITY, keys: Vec::with_capacity(2 * k + LANES) }
    }

    /// Later indices must be higher than earlier ones: then a similarity equal to the bar never belongs to the best.
    fn take(&mut self, similarities: &[f32], first: u32) {
        for (c, lanes) in similarities.chunks(LANES).enumerate() {
            // Almost no chunk has a candidate; counting without a branch is what the compiler vectorises.
            if lanes.iter().map(|&s| u32::from(s > self.bar)).sum::<u32>() == 0 {
                continue;
            }
            for (i, &s) in lanes.iter().enumerate() {
                if s > self.bar {
                    self.keys.push(key(s, first + (c * LANES + i) as u32));
                }
            }
            if self.keys.len() >= 2 * self.k {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        if self.k == 0 || self.keys.len() < self.k {
            return;
        }
        let (_, last, _) = self.keys.select_nth_unstable(self.k - 1);
        self.bar = neighbour(*last).similarity;
        self.keys.truncate(self.k);
    }

    fn finish(mut self) -> Vec<Neighbour> {
        self.cut();
        self.keys.sort_unstable();
        self.keys.iter().take(self.k).map(|&key| neighbour(key)).collect()
    }
}

const LANES: usize = 32;

fn key(similarity: f32, index: u32) -> u64 {
    // Adding 0 turns -0 into 0, which must not stand apart. The bits of a float, with the sign bit set for positive
    // ones and all bits flipped for negative ones, are ordered as the floats are; the complement reverses that.
    let bits = (similarity + 0.0).to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(!ordered) << 32 | u64::from(index)
}

fn neighbour(key: u64) -> Neighbour {
    let ordered = !((key >> 32) as u32);
    let bits = if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered };
    Neighbour { index: key as u32, similarity: f32::from_bits(bits) }
}
