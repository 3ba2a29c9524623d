//! Sources of samples and the loader.
//!
//! A [`Source`] maps an index to a sample; a [`Transform`] maps a sample and its key to arrays; a loader owns threads
//! and yields [`Batch`]es in index order, the same bytes for any number of workers.

use std::sync::Arc;

use crate::Result;
use crate::rng::Key;

#[cfg(feature = "data")]
mod cifar_binary;
#[cfg(feature = "data")]
pub mod decode;
#[cfg(feature = "data")]
pub mod embedded;
#[cfg(feature = "data")]
mod folder;
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(feature = "data")]
mod loader;
mod memory;
#[cfg(feature = "data")]
mod open;
#[cfg(feature = "hub")]
mod parquet_file;
#[cfg(feature = "hub")]
mod parquet_images;
#[cfg(feature = "data")]
mod pipeline;
#[cfg(feature = "data")]
mod skipped;
mod subset;
#[cfg(test)]
#[cfg(feature = "data")]
mod tests;

#[cfg(feature = "data")]
pub use cifar_binary::cifar_binary;
#[cfg(feature = "data")]
pub use folder::ImageFolder;
#[cfg(feature = "data")]
pub use loader::{Loader, LoaderOptions, SequentialLoader};
pub use memory::InMemory;
#[cfg(feature = "data")]
pub use open::open;
#[cfg(feature = "hub")]
pub use parquet_file::{ParquetColumns, open_parquet};
#[cfg(feature = "hub")]
pub use parquet_images::ParquetImages;
#[cfg(feature = "data")]
pub use skipped::Skipped;
pub use subset::{Subset, Unlabelled};

/// Random access to samples. Implementations are pure: the same index gives the same sample.
pub trait Source: Send + Sync {
    /// What a sample is: an image, a wave form, a sentence.
    type Sample: Send;

    /// A short name for tables (`cifar10`, `sign-digits`, the folder's name).
    fn name(&self) -> &str;
    /// The number of samples.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The sample at `index`.
    ///
    /// # Errors
    /// [`crate::Error::Data`], [`crate::Error::Format`] or [`crate::Error::Io`] for a sample that cannot be read;
    /// loaders count, name and skip those.
    fn sample(&self, index: usize) -> Result<Self::Sample>;
    /// What a report calls the sample: a file's relative path, or the source's name and the index.
    fn sample_name(&self, index: usize) -> String {
        format!("{}[{index}]", self.name())
    }
    /// The class of the sample, where there are labels.
    fn label(&self, index: usize) -> Option<u32>;
    /// The number of classes, 0 where there are no labels.
    fn classes(&self) -> usize;
    /// A hash of the content, independent of where it is stored; it stands beside every number in a table.
    fn fingerprint(&self) -> String;
}

/// Shared sources, also behind `dyn`.
impl<S: Source + ?Sized> Source for Arc<S> {
    type Sample = S::Sample;

    fn name(&self) -> &str {
        (**self).name()
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    fn sample(&self, index: usize) -> Result<Self::Sample> {
        (**self).sample(index)
    }

    fn sample_name(&self, index: usize) -> String {
        (**self).sample_name(index)
    }

    fn label(&self, index: usize) -> Option<u32> {
        (**self).label(index)
    }

    fn classes(&self) -> usize {
        (**self).classes()
    }

    fn fingerprint(&self) -> String {
        (**self).fingerprint()
    }
}

/// The part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// For training.
    Train,
    /// For evaluation.
    Test,
}

impl Split {
    /// `train` or `test`, as file names and tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }
}

/// A dense `f32` array in row-major order, before it becomes a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Dimensions, outermost first (`[C, H, W]` for an image).
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<f32>,
}

impl Array {
    /// Arrays `[C, H, W]` of one height and width above each other, `[ΣC, H, W]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for other ranks or sizes that differ.
    pub fn stacked(parts: Vec<Self>) -> Result<Self> {
        let size = parts.first().and_then(|part| part.shape.get(1..)).unwrap_or(&[]).to_vec();
        let (mut channels, mut data) = (0, Vec::new());
        for part in parts {
            match part.shape.as_slice() {
                [own, rest @ ..] if rest.len() == 2 && rest == size => channels += own,
                other => return Err(crate::Error::shape("stacked arrays", format!("[C, {size:?}]"), other)),
            }
            data.extend(part.data);
        }
        Ok(Self { shape: [&[channels], size.as_slice()].concat(), data })
    }
}

/// From a sample to the views of it. Pure: all randomness comes from the key.
pub trait Transform<S>: Send + Sync {
    /// The views, in the method's order. `key` names seed, epoch and sample; view `v` draws from `key.view(v)`.
    ///
    /// # Errors
    /// A sample that the transform cannot take.
    fn apply(&self, sample: &S, key: Key) -> Result<Vec<Array>>;
}

/// Samples ready for a step.
#[derive(Debug, Clone)]
pub struct Batch {
    /// One tensor per view, `[N, ...]` each, on the CPU.
    pub views: Vec<candle_core::Tensor>,
    /// Index of each sample in its source.
    pub indices: Vec<u64>,
    /// Labels where the source has them; only probes may look.
    pub labels: Option<Vec<u32>>,
}

impl Batch {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

/// Batches of an epoch, in order: what the training loop asks of a loader.
pub trait Batches: Send + Sync {
    /// The number of samples; [`Batch::indices`] are below it.
    fn samples(&self) -> u64;

    /// Steps in an epoch (the last, smaller batch is dropped).
    fn steps_per_epoch(&self) -> u64;

    /// The batches of `epoch` beginning with step `from_step` of it, for resume. The iterator yields
    /// `steps_per_epoch - from_step` items.
    fn epoch(&self, epoch: u64, from_step: u64) -> Box<dyn Iterator<Item = Result<Batch>> + '_>;

    /// Names the data for run records: [`Source::name`] and [`Source::fingerprint`].
    fn identity(&self) -> (String, String);

    /// Samples that could not be read so far and were replaced, with the reason, in the order of the source.
    fn skipped(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}
