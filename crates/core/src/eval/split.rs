//! A part of a training set that is kept back to choose settings on.

use crate::rng::{Key, Purpose};
use crate::{Error, Result};

/// Indices of both parts, each in the order of the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parts {
    /// What is left to train on: of every class at least one sample.
    pub(crate) rest: Vec<usize>,
    /// What settings are chosen on.
    pub(crate) held: Vec<usize>,
}

/// Keeps back `fraction` of every class, rounded, at least one sample where a class has two or more and never all of
/// them; drawn with `seed`.
///
/// # Errors
/// [`Error::Data`] where no class has two samples.
pub(crate) fn hold_out(name: &str, labels: &[u32], fraction: f64, seed: u64) -> Result<Parts> {
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut members = vec![Vec::new(); classes];
    for (index, &label) in labels.iter().enumerate() {
        members[label as usize].push(index);
    }
    let key = Key::new(seed, Purpose::Eval).name("held-out");
    let mut held = Vec::new();
    for (class, mut members) in members.into_iter().enumerate() {
        if members.len() < 2 {
            continue;
        }
        let count = (fraction * members.len() as f64).round() as usize;
        key.view(class as u64).stream().shuffle(&mut members);
        held.extend_from_slice(&members[..count.clamp(1, members.len() - 1)]);
    }
    if held.is_empty() {
        return Err(Error::data(
            name,
            "no class has two samples, so none can be kept back to choose settings on",
        ));
    }
    held.sort_unstable();
    let mut is_held = vec![false; labels.len()];
    held.iter().for_each(|&index| is_held[index] = true);
    let rest = (0..labels.len()).filter(|&index| !is_held[index]).collect();
    Ok(Parts { rest, held })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_gives_its_share_and_keeps_some() {
        let labels: Vec<u32> = (0..100).map(|i| [0, 0, 0, 1][i % 4]).chain([2, 3, 3]).collect();
        let parts = hold_out("set", &labels, 0.2, 5).unwrap();
        let count = |part: &[usize], class: u32| part.iter().filter(|&&i| labels[i] == class).count();
        let counts: Vec<_> = (0..4).map(|c| (count(&parts.rest, c), count(&parts.held, c))).collect();
        assert_eq!(counts, [(60, 15), (20, 5), (1, 0), (1, 1)]);
        let mut all = [parts.rest.clone(), parts.held.clone()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..labels.len()));
        assert!(parts.rest.is_sorted() && parts.held.is_sorted());
        assert_eq!(hold_out("set", &labels, 0.2, 5).unwrap(), parts);
        assert_ne!(hold_out("set", &labels, 0.2, 6).unwrap(), parts);
        let error = hold_out("set", &[0, 1, 2], 0.5, 0).unwrap_err().to_string();
        assert!(error.contains("set: no class has two samples"), "{error}");
    }
}
