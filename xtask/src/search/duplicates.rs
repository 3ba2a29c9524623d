//! Groups of samples that are nearly the same.

use contrastive_core::eval::{Features, nearest};

/// Neighbours of each row that are looked at first.
const FIRST: usize = 16;

/// Groups of two rows or more that hang together by pairs with a cosine of at least `least`, each in order, in the order
/// of their first rows. Rows are of unit length. Exact: a row with more such neighbours is asked for more.
pub fn groups(rows: &Features, least: f32) -> Vec<Vec<usize>> {
    let mut parent: Vec<usize> = (0..rows.n).collect();
    let mut asked: Vec<usize> = (0..rows.n).collect();
    // The row itself is among its neighbours.
    let mut k = FIRST.min(rows.n);
    while !asked.is_empty() {
        let data = asked.iter().flat_map(|&i| rows.row(i)).copied().collect();
        let queries = Features { data, n: asked.len(), dim: rows.dim, labels: vec![0; asked.len()] };
        let mut unsure = Vec::new();
        for (&i, near) in asked.iter().zip(nearest(rows, &queries, k)) {
            near.iter()
                .filter(|n| n.similarity >= least)
                .for_each(|n| join(&mut parent, i, n.index as usize));
            if k < rows.n && near.last().is_some_and(|n| n.similarity >= least) {
                unsure.push(i);
            }
        }
        asked = unsure;
        k = (4 * k).min(rows.n);
    }
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); rows.n];
    for i in 0..rows.n {
        members[root(&mut parent, i)].push(i);
    }
    // A root is the lowest of its group.
    members.into_iter().filter(|group| group.len() > 1).collect()
}

fn root(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

fn join(parent: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(parent, a), root(parent, b));
    parent[a.max(b)] = a.min(b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_all_pairs() {
        // Angles on the circle: a crowd that is larger than what is looked at first, a pair, and loners.
        let mut angles: Vec<f32> = (0..90).map(|i| 0.001 * i as f32).collect();
        angles.extend([2.0, 3.0, 2.005, 4.0]);
        let data = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
        let rows = Features { data, n: angles.len(), dim: 2, labels: vec![0; angles.len()] };
        let least = 0.01f32.cos();
        assert_eq!(groups(&rows, least), [(0..90).collect::<Vec<_>>(), vec![90, 92]]);
        assert!(groups(&rows, 1.1).is_empty());
    }
}
