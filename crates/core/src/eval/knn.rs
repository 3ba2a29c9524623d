//! Weighted k nearest neighbours of InstDisc (Wu et al., CVPR 2018, section 3.4), exact.

use rayon::prelude::*;

use super::features::Features;
use super::metrics::{Outcome, Predictions};
use super::nearest::{Best, Neighbour};
use super::similarity::{Packed, pitch};
use crate::kernels::memory::Buffer;

/// Queries per unit of work and training samples per tile: a tile of similarities (384 KiB) stays in a core's L2.
const QUERIES: usize = 192;
const TILE: usize = 512;
/// Elements of the training set that are packed at a time (16 MiB), and queries that are answered at a time: packing
/// costs little beside the products with so many.
const PACKED: usize = 1 << 22;
const CHUNK: usize = 8192;

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
///
/// Beside the two sets and the result, memory is needed for 16 MiB of training rows and `2 k` candidates of each of
/// 8,192 queries.
pub fn nearest(train: &Features, queries: &Features, k: usize) -> Vec<Vec<Neighbour>> {
    let k = k.min(train.n);
    let dim = train.dim.max(1);
    // Whole tiles, so that only the last tile of all is ragged.
    let packed_rows = (PACKED / dim / TILE).max(1) * TILE;
    let mut near = Vec::with_capacity(queries.n);
    for queries in queries.data.chunks(CHUNK * dim) {
        let mut best: Vec<Best> = (0..queries.len() / dim).map(|_| Best::new(k)).collect();
        for (part, rows) in train.data.chunks(packed_rows * dim).enumerate() {
            let packed = Packed::new(rows, dim);
            let blocks = queries.par_chunks(QUERIES * dim).zip(best.par_chunks_mut(QUERIES));
            blocks.with_max_len(1).for_each_init(
                || Buffer::new(QUERIES * TILE),
                |tile, (block, best)| {
                    for first in (0..packed.len()).step_by(TILE) {
                        let count = TILE.min(packed.len() - first);
                        packed.product(block, first, count, tile);
                        let index = (part * packed_rows + first) as u32;
                        for (best, similarities) in best.iter_mut().zip(tile.chunks_exact(pitch(count))) {
                            best.take(&similarities[..count], index);
                        }
                    }
                },
            );
        }
        near.extend(best.into_par_iter().map(Best::finish).collect::<Vec<_>>());
    }
    near
}
