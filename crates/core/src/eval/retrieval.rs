//! Retrieval: whether a neighbour of the same class is among the nearest.

use super::features::Features;
use super::knn::nearest;
use super::metrics::{Metric, Metrics};

/// The K of CUB-200 and Cars-196 (1, 2, 4, 8) and of Stanford Online Products (1, 10, 100).
const AT: [usize; 6] = [1, 2, 4, 8, 10, 100];

/// For each K of `at` the fraction of samples that have one of their own class among their K nearest by cosine, the
/// sample itself left out. K beyond the set means all of it; a sample whose class has no other is never a hit.
pub fn recall_at(features: &Features, at: &[usize]) -> Vec<f64> {
    let most = at.iter().copied().max().unwrap_or(0);
    let unit = features.l2_normalized();
    // One more, because a sample is among its own nearest (but for many exact copies of it).
    let near = nearest(&unit, &unit, most.saturating_add(1));
    let mut hits = vec![0usize; at.len()];
    for (i, near) in near.iter().enumerate() {
        let others = near.iter().filter(|n| n.index as usize != i).take(most);
        let mut same = others.map(|n| features.labels[n.index as usize] == features.labels[i]);
        let first = same.position(|same| same);
        for (hits, &k) in hits.iter_mut().zip(at) {
            *hits += usize::from(first.is_some_and(|place| place < k));
        }
    }
    hits.iter().map(|&hits| hits as f64 / features.n.max(1) as f64).collect()
}

/// `retrieval-recall-v1` on a set that was checked.
pub(super) fn evaluate(test: &Features) -> Metrics {
    let recalls = recall_at(test, &AT);
    AT.iter().zip(recalls).map(|(k, recall)| Metric::fraction(&format!("recall@{k}"), recall)).collect()
}
