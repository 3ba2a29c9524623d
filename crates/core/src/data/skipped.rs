//! The report of samples that could not be used.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Samples that a loader left out, each named once. Clones share one report.
#[derive(Debug, Clone, Default)]
pub struct Skipped {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By index, so that the report does not depend on which worker came first.
    reasons: BTreeMap<usize, (String, String)>,
    /// Samples that the source itself refused. A source is pure, so these need no second attempt; a transform's
    /// refusal depends on its key and is not remembered here.
    unreadable: HashSet<usize>,
}

impl Skipped {
    /// Name and reason of each skipped sample, in index order.
    pub fn list(&self) -> Vec<(String, String)> {
        self.lock().reasons.values().cloned().collect()
    }

    /// The number of different samples that were skipped.
    pub fn count(&self) -> usize {
        self.lock().reasons.len()
    }

    pub(super) fn is_unreadable(&self, index: usize) -> bool {
        self.lock().unreadable.contains(&index)
    }

    pub(super) fn add(&self, index: usize, name: String, reason: String, unreadable: bool) {
        let mut inner = self.lock();
        inner.reasons.entry(index).or_insert((name, reason));
        if unreadable {
            inner.unreadable.insert(index);
        }
    }

    pub(super) fn first(&self) -> Option<(String, String)> {
        self.lock().reasons.values().next().cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
