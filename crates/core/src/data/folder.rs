//! A folder of JPEG, PNG and WebP files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::augment::Image;
use crate::{Error, Result};

use super::Source;
use super::decode::decode;
use super::memory::{out_of_range, short_hex};

const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// Below the number of links that systems follow in one path (40), so that a cycle of links is seen as one.
const MAX_DEPTH: usize = 32;

/// Images in a folder and its sub-folders, decoded when asked for, always three channels.
///
/// A file counts when its extension is `jpg`, `jpeg`, `png` or `webp` in any case and its name does not begin with a
/// dot; what format it has is read from its content ([`decode`]). Files are ordered by the bytes of their path below
/// the folder (with `/` between the parts), so the order does not depend on the file system.
///
/// Labels follow torchvision's `ImageFolder`: where at least two first-level sub-folders hold images, and no image
/// lies beside them, their sorted names are the classes. Any other layout is an unlabelled set.
#[derive(Debug)]
pub struct ImageFolder {
    name: String,
    root: PathBuf,
    /// Path below the root, `/` between the parts.
    files: Vec<(String, PathBuf)>,
    labels: Option<Vec<u32>>,
    class_names: Vec<String>,
    fingerprint: OnceLock<String>,
}

impl ImageFolder {
    /// Lists the folder; no image is opened yet.
    ///
    /// # Errors
    /// [`Error::Data`] naming the folder if it does not exist, is not a folder, is empty or holds no images;
    /// [`Error::Io`] if it or a sub-folder cannot be listed.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let shown = root.display().to_string();
        if !root.exists() {
            return Err(Error::data(shown, "the folder does not exist"));
        }
        if !root.is_dir() {
            return Err(Error::data(shown, "not a folder"));
        }
        let mut listing = Listing::default();
        listing.visit(root, Vec::new(), 0)?;
        let Listing { mut images, others } = listing;
        if images.is_empty() {
            let reason = match others {
                0 => "the folder is empty".to_owned(),
                n => format!("no JPEG, PNG or WebP images in the folder ({n} other files)"),
            };
            return Err(Error::data(shown, reason));
        }
        images.sort_by(|a, b| a.key.cmp(&b.key));

        let mut class_names: Vec<&[u8]> = images.iter().filter_map(Listed::class).collect();
        let all_in_classes = class_names.len() == images.len();
        class_names.sort_unstable();
        class_names.dedup();
        let labelled = all_in_classes && class_names.len() >= 2;
        let labels = labelled.then(|| {
            let label = |image: &Listed| image.class().and_then(|c| class_names.binary_search(&c).ok());
            images.iter().map(|image| label(image).unwrap_or_default() as u32).collect()
        });
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let class_names = if labelled { class_names.into_iter().map(text).collect() } else { Vec::new() };
        let files = images.into_iter().map(|image| (text(&image.key), image.path)).collect();
        let name =
            root.canonicalize().ok().and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
        Ok(Self {
            name: name.unwrap_or(shown),
            root: root.to_path_buf(),
            files,
            labels,
            class_names,
            fingerprint: OnceLock::new(),
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The names of the classes by label; empty where there are no labels.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn compute_fingerprint(&self) -> String {
        let contents: Vec<Option<(u64, blake3::Hash)>> = self
            .files
            .par_iter()
            .map(|(_, path)| fs::read(path).ok().map(|bytes| (bytes.len() as u64, blake3::hash(&bytes))))
            .collect();
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"contrastive folder 1");
        for ((key, _), content) in self.files.iter().zip(contents) {
            hasher.update(&(key.len() as u64).to_le_bytes());
            hasher.update(key.as_bytes());
            match content {
                Some((size, hash)) => {
                    hasher.update(&size.to_le_bytes());
                    hasher.update(hash.as_bytes());
                }
                None => {
                    hasher.update(b"unreadable");
                }
            }
        }
        short_hex(&hasher.finalize())
    }
}

impl Source for ImageFolder {
    type Sample = Image;

    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.files.len()
    }

    /// The image as RGB.
    fn sample(&self, index: usize) -> Result<Image> {
        let (_, path) =
            self.files.get(index).ok_or_else(|| out_of_range(&self.name, index, self.files.len()))?;
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let image = decode(&bytes, path)?;
        Ok(if image.channels == 3 { image } else { image.to_rgb() })
    }

    fn sample_name(&self, index: usize) -> String {
        self.files.get(index).map_or_else(|| format!("{}[{index}]", self.name), |(key, _)| key.clone())
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.get(index).copied()
    }

    fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// BLAKE3 over relative paths, sizes and contents. The first call reads every file, in parallel (a few seconds
    /// per GB from a fast disk); later calls return the stored value. A file that cannot be read counts as such.
    fn fingerprint(&self) -> String {
        self.fingerprint.get_or_init(|| self.compute_fingerprint()).clone()
    }
}

struct Listed {
    key: Vec<u8>,
    path: PathBuf,
}

impl Listed {
    /// The first-level sub-folder, if the image lies in one.
    fn class(&self) -> Option<&[u8]> {
        let end = self.key.iter().position(|&b| b == b'/')?;
        Some(&self.key[..end])
    }
}

#[derive(Default)]
struct Listing {
    images: Vec<Listed>,
    others: usize,
}

impl Listing {
    fn visit(&mut self, folder: &Path, prefix: Vec<u8>, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            let reason = format!("folders nest deeper than {MAX_DEPTH} levels (a link to a parent folder?)");
            return Err(Error::data(folder.display().to_string(), reason));
        }
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let entry = entry.map_err(Error::io(folder))?;
            let name = entry.file_name();
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(b".") {
                continue;
            }
            let path = entry.path();
            let mut key = prefix.clone();
            key.extend_from_slice(bytes);
            if path.is_dir() {
                key.push(b'/');
                self.visit(&path, key, depth + 1)?;
            } else if is_image_name(&path) {
                self.images.push(Listed { key, path });
            } else {
                self.others += 1;
            }
        }
        Ok(())
    }
}

fn is_image_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}
