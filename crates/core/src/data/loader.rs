//! Loaders: shuffled and sharded for training, in order for evaluation.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dist::Comm;
use crate::rng::{Key, Purpose};
use crate::{Error, Result};

use super::pipeline::{Batcher, Job};
use super::{Batch, Batches, Skipped, Source, Transform};

/// More threads than any machine has use for.
const MOST_WORKERS: usize = 1024;

/// How a [`Loader`] makes batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Samples in a step over all ranks together.
    pub batch_size: usize,
    /// The run's seed, for order and augmentation.
    pub seed: u64,
    /// Worker threads; 0 prepares samples in the consumer's thread. No effect on the batches.
    pub workers: usize,
    /// Batches in the making at a time (at least 1). No effect on the batches.
    pub prefetch: usize,
    /// This rank, below `world`.
    pub rank: usize,
    /// The number of ranks; it must divide `batch_size`.
    pub world: usize,
    /// Whether each epoch has its own random order; otherwise it is that of the source.
    pub shuffle: bool,
    /// Whether the last, smaller batch of an epoch is left out; required with several ranks.
    pub drop_last: bool,
}

impl LoaderOptions {
    /// One rank, shuffled, last batch dropped, two batches ahead, one worker per core up to 8.
    pub fn new(batch_size: usize, seed: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            batch_size,
            seed,
            workers: cores.min(8),
            prefetch: 2,
            rank: 0,
            world: 1,
            shuffle: true,
            drop_last: true,
        }
    }

    /// The same for this rank among all.
    #[must_use]
    pub fn on(self, comm: &Comm) -> Self {
        Self { rank: comm.rank(), world: comm.size(), ..self }
    }

    fn check(&self) -> Result<()> {
        if self.workers > MOST_WORKERS {
            let reason = format!("must be at most {MOST_WORKERS}, got {}", self.workers);
            return Err(Error::config("data.workers", reason));
        }
        if self.batch_size == 0 {
            return Err(Error::config("data.batch_size", "must be at least 1"));
        }
        if self.world == 0 || self.rank >= self.world {
            let reason = format!("rank {} does not exist among {} ranks", self.rank, self.world);
            return Err(Error::config("data.world", reason));
        }
        if !self.batch_size.is_multiple_of(self.world) {
            let reason = format!("{} does not divide evenly among {} ranks", self.batch_size, self.world);
            return Err(Error::config("data.batch_size", reason));
        }
        if self.world > 1 && !self.drop_last {
            return Err(Error::config("data.drop_last", "must be true with several ranks"));
        }
        Ok(())
    }
}

/// Batches for training.
///
/// The order of epoch `e` is the permutation of the stream ([`Purpose::Shuffle`], seed, `e`); a sample's views are
/// drawn from ([`Purpose::Augment`], seed, `e`, index in the source). Rank `r` of `w` gets the `r`-th of `w` equal,
/// consecutive parts of each step's batch, so the ranks' batches joined in order are the batch of a single rank. The
/// batches are the same bytes for any number of workers and any point of resume.
///
/// A sample that cannot be read is replaced by the next one in the source (cyclically) that can, under that one's own
/// key, and reported once in [`Loader::skipped`]. It is an error only if none can be read. Errors that are no fault of
/// a sample ([`Error::Config`], [`Error::Shape`], Candle's), panics of workers and views of unequal shape end the epoch
/// with that error.
pub struct Loader<S, T> {
    source: Arc<S>,
    transform: Arc<T>,
    options: LoaderOptions,
    /// The samples of every group, where batches are of one group each.
    groups: Option<Vec<Vec<usize>>>,
    skipped: Skipped,
}

impl<S: Source + 'static, T: Transform<S::Sample> + 'static> Loader<S, T> {
    /// Makes a loader; no thread starts before [`Batches::epoch`].
    ///
    /// # Errors
    /// [`Error::Config`] for options that do not fit together; [`Error::Data`] for an empty source or one with fewer
    /// samples than a batch.
    pub fn new(source: S, transform: T, options: LoaderOptions) -> Result<Self> {
        options.check()?;
        let count = source.len();
        if count == 0 {
            return Err(Error::data(source.name(), "the data set holds no samples"));
        }
        if options.drop_last && options.batch_size > count {
            let reason = format!("a batch of {} is larger than the {count} samples", options.batch_size);
            return Err(Error::data(source.name(), reason));
        }
        let skipped = Skipped::default();
        Ok(Self { source: Arc::new(source), transform: Arc::new(transform), options, groups: None, skipped })
    }

    /// Batches of one group each (one speaker's utterances): `groups` names the group of every sample. In each epoch the
    /// samples of a group come in a random order and so do the batches of all groups; what a group has more than whole
    /// batches waits for another epoch. The sample that takes the place of an unreadable one may be of another group.
    ///
    /// # Errors
    /// [`Error::Data`] where the number of samples differs or no group fills a batch.
    pub fn grouped(mut self, groups: &[u32]) -> Result<Self> {
        let (count, size) = (self.source.len(), self.options.batch_size);
        if groups.len() != count {
            let reason = format!("groups of {} samples for {count}", groups.len());
            return Err(Error::data(self.source.name(), reason));
        }
        let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (index, group) in groups.iter().enumerate() {
            members.entry(*group).or_default().push(index);
        }
        let members: Vec<Vec<usize>> =
            members.into_values().filter(|members| members.len() >= size).collect();
        if members.is_empty() {
            let reason = format!("no group has the {size} samples of a batch");
            return Err(Error::data(self.source.name(), reason));
        }
        self.groups = Some(members);
        Ok(self)
    }

    /// The indices of the batches of an epoch, one after another.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let LoaderOptions { batch_size, seed, shuffle, .. } = self.options;
        let key = Key::new(seed, Purpose::Shuffle).epoch(epoch);
        let Some(groups) = &self.groups else {
            let count = self.source.len();
            return if shuffle { key.stream().permutation(count) } else { (0..count).collect() };
        };
        let mut batches: Vec<Vec<usize>> = Vec::new();
        for (number, members) in groups.iter().enumerate() {
            let mut members = members.clone();
            if shuffle {
                key.sample(1 + number as u64).stream().shuffle(&mut members);
            }
            batches.extend(members.chunks_exact(batch_size).map(<[usize]>::to_vec));
        }
        if shuffle {
            key.stream().shuffle(&mut batches);
        }
        batches.concat()
    }

    /// The samples left out so far.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// The source.
    pub fn source(&self) -> &S {
        &self.source
    }
}

impl<S: Source + 'static, T: Transform<S::Sample> + 'static> Batches for Loader<S, T> {
    fn samples(&self) -> u64 {
        self.source.len() as u64
    }

    fn steps_per_epoch(&self) -> u64 {
        let (count, size) = (self.source.len(), self.options.batch_size);
        if let Some(groups) = &self.groups {
            return groups.iter().map(|members| (members.len() / size) as u64).sum();
        }
        let steps = if self.options.drop_last { count / size } else { count.div_ceil(size) };
        steps as u64
    }

    fn epoch(&self, epoch: u64, from_step: u64) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        let LoaderOptions { batch_size, seed, rank, world, .. } = self.options;
        let order = self.order(epoch);
        let plan = (from_step..self.steps_per_epoch()).map(move |step| {
            let start = step as usize * batch_size;
            let batch = &order[start..(start + batch_size).min(order.len())];
            let share = batch.len() / world;
            batch[rank * share..(rank + 1) * share].to_vec()
        });
        let job = Job {
            source: self.source.clone(),
            transform: self.transform.clone(),
            key: Key::new(seed, Purpose::Augment).epoch(epoch),
            replace: true,
            skipped: self.skipped.clone(),
        };
        Box::new(Batcher::new(job, Box::new(plan), self.options.workers, self.options.prefetch))
    }

    fn identity(&self) -> (String, String) {
        (self.source.name().to_owned(), self.source.fingerprint())
    }

    fn skipped(&self) -> Vec<(String, String)> {
        self.skipped.list()
    }
}

/// Batches for evaluation: every sample once, in source order, the last batch smaller.
///
/// A sample that cannot be read is left out, never replaced (it would count twice), and reported in
/// [`SequentialLoader::skipped`]. Transforms get the key ([`Purpose::Eval`], seed 0, index in the source); those of
/// evaluation protocols do not draw from it.
pub struct SequentialLoader<S, T> {
    source: Arc<S>,
    transform: Arc<T>,
    batch_size: usize,
    workers: usize,
    skipped: Skipped,
}

impl<S: Source + 'static, T: Transform<S::Sample> + 'static> SequentialLoader<S, T> {
    /// Makes a loader of batches with `batch_size` samples by `workers` threads (0: the consumer's).
    ///
    /// # Errors
    /// [`Error::Config`] for a batch size of 0, [`Error::Data`] for an empty source.
    pub fn new(source: S, transform: T, batch_size: usize, workers: usize) -> Result<Self> {
        LoaderOptions { workers, ..LoaderOptions::new(batch_size, 0) }.check()?;
        if source.is_empty() {
            return Err(Error::data(source.name(), "the data set holds no samples"));
        }
        let skipped = Skipped::default();
        Ok(Self { source: Arc::new(source), transform: Arc::new(transform), batch_size, workers, skipped })
    }

    /// The batches: per view a tensor `[N, ...]` (`[N, C, H, W]` for images), with labels where the source has them.
    /// The iterator ends after its first error.
    pub fn batches(&self) -> impl Iterator<Item = Result<Batch>> + use<S, T> {
        let (count, size) = (self.source.len(), self.batch_size);
        let plan = (0..count).step_by(size).map(move |start| (start..(start + size).min(count)).collect());
        let job = Job {
            source: self.source.clone(),
            transform: self.transform.clone(),
            key: Key::new(0, Purpose::Eval),
            replace: false,
            skipped: self.skipped.clone(),
        };
        Batcher::new(job, Box::new(plan), self.workers, 2)
    }

    /// The samples left out so far.
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// The source.
    pub fn source(&self) -> &S {
        &self.source
    }
}
