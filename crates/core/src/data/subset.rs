//! Parts of other sources.

use crate::rng::{Key, Purpose};
use crate::{Error, Result};

use super::Source;
use super::memory::{out_of_range, short_hex};

/// The samples of another source at given indices, in the given order.
#[derive(Debug, Clone)]
pub struct Subset<S> {
    source: S,
    indices: Vec<usize>,
    name: String,
}

impl<S: Source> Subset<S> {
    /// The samples at `indices`; an index may occur more than once.
    ///
    /// # Errors
    /// [`Error::Data`] for an empty list or an index beyond the source.
    pub fn new(source: S, indices: Vec<usize>) -> Result<Self> {
        if indices.is_empty() {
            return Err(Error::data(source.name(), "a subset needs at least one index"));
        }
        if let Some(&index) = indices.iter().find(|&&i| i >= source.len()) {
            return Err(out_of_range(source.name(), index, source.len()));
        }
        let name = format!("{}[{}]", source.name(), indices.len());
        Ok(Self { source, indices, name })
    }

    /// `per_class` samples of every class, drawn with `seed` ([`Purpose::Eval`]) and kept in source order: the subset
    /// of few-label protocols (1 % and 10 % of the labels).
    ///
    /// # Errors
    /// [`Error::Data`] if the source has no labels or a class has fewer than `per_class` samples.
    pub fn class_balanced(source: S, per_class: usize, seed: u64) -> Result<Self> {
        if source.classes() == 0 {
            return Err(Error::data(source.name(), "a class-balanced subset needs labels"));
        }
        let mut members = vec![Vec::new(); source.classes()];
        for index in 0..source.len() {
            let class = source.label(index).and_then(|label| members.get_mut(label as usize));
            class
                .ok_or_else(|| Error::data(source.name(), format!("sample {index} has no usable label")))?
                .push(index);
        }
        let mut indices = Vec::with_capacity(per_class * members.len());
        for (class, mut candidates) in members.into_iter().enumerate() {
            if candidates.len() < per_class {
                let reason =
                    format!("class {class} has {} samples, {per_class} are asked for", candidates.len());
                return Err(Error::data(source.name(), reason));
            }
            Key::new(seed, Purpose::Eval).sample(class as u64).stream().shuffle(&mut candidates);
            indices.extend_from_slice(&candidates[..per_class]);
        }
        indices.sort_unstable();
        Self::new(source, indices)
    }

    /// The indices into the source.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    fn source_index(&self, index: usize) -> Result<usize> {
        self.indices.get(index).copied().ok_or_else(|| out_of_range(&self.name, index, self.indices.len()))
    }
}

impl<S: Source> Source for Subset<S> {
    type Sample = S::Sample;

    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn sample(&self, index: usize) -> Result<Self::Sample> {
        self.source.sample(self.source_index(index)?)
    }

    fn sample_name(&self, index: usize) -> String {
        self.source_index(index)
            .map_or_else(|_| format!("{}[{index}]", self.name), |i| self.source.sample_name(i))
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.source.label(*self.indices.get(index)?)
    }

    fn classes(&self) -> usize {
        self.source.classes()
    }

    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"contrastive subset 1");
        hasher.update(self.source.fingerprint().as_bytes());
        for &index in &self.indices {
            hasher.update(&(index as u64).to_le_bytes());
        }
        short_hex(&hasher.finalize())
    }
}

/// A source whose labels are hidden, so that a method cannot look at them even by mistake.
#[derive(Debug, Clone)]
pub struct Unlabelled<S>(pub S);

impl<S: Source> Source for Unlabelled<S> {
    type Sample = S::Sample;

    fn name(&self) -> &str {
        self.0.name()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn sample(&self, index: usize) -> Result<Self::Sample> {
        self.0.sample(index)
    }

    fn sample_name(&self, index: usize) -> String {
        self.0.sample_name(index)
    }

    fn label(&self, _index: usize) -> Option<u32> {
        None
    }

    fn classes(&self) -> usize {
        0
    }

    fn fingerprint(&self) -> String {
        self.0.fingerprint()
    }
}
