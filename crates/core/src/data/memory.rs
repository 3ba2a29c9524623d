//! Images that are held decoded in memory.

use std::fmt::Write as _;

use crate::augment::Image;
use crate::{Error, Result};

use super::Source;

/// Decoded images with or without labels.
///
/// The [fingerprint](Source::fingerprint) is BLAKE3 over every image's size and pixels and every label, computed once
/// when the set is built.
#[derive(Debug, Clone)]
pub struct InMemory {
    name: String,
    images: Vec<Image>,
    labels: Option<Vec<u32>>,
    classes: usize,
    fingerprint: String,
}

impl InMemory {
    /// A set without labels.
    ///
    /// # Errors
    /// [`Error::Data`] if there are no images.
    pub fn unlabelled(name: impl Into<String>, images: Vec<Image>) -> Result<Self> {
        Self::build(name.into(), images, None, 0)
    }

    /// A set with one label per image, all below `classes`.
    ///
    /// # Errors
    /// [`Error::Data`] if there are no images, if the counts differ or if a label is out of range.
    pub fn labelled(
        name: impl Into<String>,
        images: Vec<Image>,
        labels: Vec<u32>,
        classes: usize,
    ) -> Result<Self> {
        Self::build(name.into(), images, Some(labels), classes)
    }

    fn build(name: String, images: Vec<Image>, labels: Option<Vec<u32>>, classes: usize) -> Result<Self> {
        if images.is_empty() {
            return Err(Error::data(name, "the data set holds no images"));
        }
        if let Some(labels) = &labels {
            if labels.len() != images.len() {
                let reason = format!("{} labels for {} images", labels.len(), images.len());
                return Err(Error::data(name, reason));
            }
            check_labels(&name, labels.iter().map(|&l| i64::from(l)), classes)?;
        }
        let fingerprint = fingerprint(&images, labels.as_deref(), classes);
        Ok(Self { name, images, labels, classes, fingerprint })
    }

    /// The images, in order.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The labels, in order, where there are any.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }
}

impl Source for InMemory {
    type Sample = Image;

    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.images.len()
    }

    fn sample(&self, index: usize) -> Result<Image> {
        self.images.get(index).cloned().ok_or_else(|| out_of_range(&self.name, index, self.images.len()))
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.get(index).copied()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

/// The error for an index beyond a source.
pub(super) fn out_of_range(name: &str, index: usize, len: usize) -> Error {
    Error::data(name, format!("index {index} is out of range for {len} samples"))
}

/// Refuses the first label outside `0..classes`, with its position and the class count.
pub(super) fn check_labels(name: &str, labels: impl Iterator<Item = i64>, classes: usize) -> Result<()> {
    for (i, label) in labels.enumerate() {
        if !usize::try_from(label).is_ok_and(|l| l < classes) {
            let reason = format!("label {label} of sample {i} is out of range for {classes} classes");
            return Err(Error::data(name, reason));
        }
    }
    Ok(())
}

/// Hexadecimal, 32 digits (128 bits): short enough for a table, long enough never to collide by accident.
pub(super) fn short_hex(hash: &blake3::Hash) -> String {
    hash.as_bytes()[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn fingerprint(images: &[Image], labels: Option<&[u32]>, classes: usize) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"contrastive images 1");
    hasher.update(&(images.len() as u64).to_le_bytes());
    for image in images {
        for side in [image.width, image.height, image.channels] {
            hasher.update(&(side as u64).to_le_bytes());
        }
        hasher.update(&image.data);
    }
    if let Some(labels) = labels {
        hasher.update(&(classes as u64).to_le_bytes());
        for label in labels {
            hasher.update(&label.to_le_bytes());
        }
    }
    short_hex(&hasher.finalize())
}
