//! PyTorch's checkpoints, read as data: the zip format of `torch.save` and the one before 1.6; and pickles of numpy's and
//! JAX's arrays, as Haiku's users write them.
//!
//! A checkpoint is a pickle, which is a program, and so may do anything when Python reads it. Nothing of it is run
//! here. The opcodes that build values are known; a name outside the list of what a checkpoint needs (tensors, ordered
//! dictionaries, settings) ends the reading with an error that says it. What a file claims is held against its length
//! before memory is asked for: a tensor has no more elements than its storage, a storage no more bytes than the file.
//!
//! ```no_run
//! use contrastive_core::weights::torch::Checkpoint;
//!
//! # fn main() -> contrastive_core::Result<()> {
//! let mut file = Checkpoint::open("moco_v2_800ep_pretrain.pth.tar")?;
//! for (name, tensor) in &file.tables()["state_dict"].clone() {
//!     println!("{name} {:?}", tensor.shape());
//! }
//! # Ok(())
//! # }
//! ```

mod archive;
mod arrays;
mod globals;
mod input;
mod machine;
mod strided;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use self::archive::{Region, bytes};
use self::value::{Id, Node, View};
use crate::{Error, Result};

/// A tensor of a [`Checkpoint`], before its elements are read.
#[derive(Debug, Clone)]
pub struct Stored {
    view: View,
}

impl Stored {
    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.view.shape
    }

    /// The element type after reading: truth values become [`DType::U8`]; `None` where Candle has no such type.
    pub fn dtype(&self) -> Option<DType> {
        self.view.storage.element.dtype()
    }

    /// Bytes after reading.
    pub fn size(&self) -> usize {
        strided::count(&self.view) * self.view.storage.element.size()
    }
}

/// The tensors that lie directly in one dictionary, by name.
pub type Table = BTreeMap<String, Stored>;

/// A checkpoint whose structure has been read and checked. Elements stay in the file until [`Checkpoint::read`].
pub struct Checkpoint {
    path: PathBuf,
    file: File,
    storages: HashMap<String, Region>,
    tables: BTreeMap<String, Table>,
}

/// Bytes that tensors may have for each byte of the file: views may share storages, but not so that a small file becomes
/// a large one.
const MOST_GROWTH: u64 = 4;
/// Levels of dictionaries in dictionaries.
const DEEPEST: usize = 32;
/// Values that are looked at, counting those that are reached in several ways each time.
const MOST_VISITS: usize = 1 << 20;
/// Dictionaries with tensors.
const MOST_TABLES: usize = 1 << 16;
/// Characters of a key, and of the keys that lead to a dictionary.
const LONGEST_NAME: usize = 1024;

impl Checkpoint {
    /// Reads the structure of a file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for anything but a whole checkpoint, with the byte of the pickle and the name
    /// that is not on the list.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_skipping(path, &[])
    }

    /// [`Self::open`] with further names (`module.name`) on the list of objects that are skipped. What they hold is
    /// lost, and nothing is run.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_skipping(path: impl AsRef<Path>, skipped: &[String]) -> Result<Self> {
        let path = path.as_ref();
        let archive = archive::open(path, skipped)?;
        let mut walk = Walk { nodes: &archive.pickle.nodes, tables: BTreeMap::new(), visits: 0 };
        walk.visit(archive.pickle.root, &mut Vec::new()).map_err(|reason| Error::format(path, reason))?;
        let tables = walk.tables;
        let file = File::open(path).map_err(Error::io(path))?;
        let checkpoint = Self { path: path.to_path_buf(), file, storages: archive.storages, tables };
        let stored = checkpoint.tables.values().flat_map(|table| table.values());
        for stored in stored {
            checkpoint.region(&stored.view)?;
        }
        Ok(checkpoint)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every dictionary that holds tensors, by the keys that lead to it, joined with `/`: the empty text is the
    /// outermost one, `state_dict` the dictionary of that name in it.
    pub fn tables(&self) -> &BTreeMap<String, Table> {
        &self.tables
    }

    /// The elements of a tensor of this file, on the CPU, in row-major order whatever its strides. Only its own part of
    /// the file is read.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for an element type that Candle has not.
    pub fn read(&mut self, stored: &Stored) -> Result<Tensor> {
        let element = stored.view.storage.element;
        let Some(dtype) = stored.dtype() else {
            return Err(Error::format(&self.path, format!("element type {element:?} is not supported")));
        };
        let region = self.region(&stored.view)?;
        let (first, len) = strided::span(&stored.view);
        let raw = if region.text {
            let whole = bytes(&mut self.file, region).map_err(Error::io(&self.path))?;
            let size = stored.view.storage.whole * element.size();
            let whole = arrays::characters(&whole).filter(|whole| whole.len() == size);
            // An array is the whole of its bytes.
            whole.and_then(|whole| Some(whole.get(first as usize..)?.get(..len)?.to_vec())).ok_or_else(
                || Error::format(&self.path, format!("byte {}: not the bytes of an array", region.start)),
            )?
        } else {
            let span = Region { start: region.start + first, len: len as u64, text: false };
            bytes(&mut self.file, span).map_err(Error::io(&self.path))?
        };
        let raw = strided::gather(&stored.view, raw);
        Ok(Tensor::from_raw_buffer(&raw, dtype, &stored.view.shape, &Device::Cpu)?)
    }

    /// Refuses tensors that together are far larger than the file: before all of them are read or written.
    ///
    /// # Errors
    /// [`Error::Format`] with both sizes.
    pub fn check_size<'a>(&self, tensors: impl IntoIterator<Item = &'a Stored>) -> Result<()> {
        let length = self.file.metadata().map_err(Error::io(&self.path))?.len();
        let size = tensors.into_iter().fold(0u64, |sum, stored| sum.saturating_add(stored.size() as u64));
        if size <= length.saturating_mul(MOST_GROWTH) {
            return Ok(());
        }
        let reason = format!("{length} bytes that would become {size}: its tensors share their storages");
        Err(Error::format(&self.path, reason))
    }

    /// Where the whole storage of a view lies.
    fn region(&self, view: &View) -> Result<Region> {
        let storage = &view.storage;
        let refuse = |reason: String| {
            Err(Error::format(&self.path, format!("storage `{}` {reason}", storage.key.escape_debug())))
        };
        let Some(region) = self.storages.get(&storage.key) else { return refuse("is missing".into()) };
        // A byte from 128 on takes two in a text.
        let most = if region.text { 2 } else { 1 };
        let size = storage.whole.checked_mul(storage.element.size()).map(|size| size as u64);
        if size.is_none_or(|size| !(size..=size.saturating_mul(most)).contains(&region.len)) {
            return refuse(format!("has {} bytes for {} elements", region.len, storage.whole));
        }
        Ok(*region)
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |(name, table): (&String, &Table)| (name.clone(), table.len());
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("tables", &self.tables.iter().map(count).collect::<Vec<_>>())
            .finish()
    }
}

/// Collects tensors from the values of a pickle.
struct Walk<'a> {
    nodes: &'a [Node],
    tables: BTreeMap<String, Table>,
    visits: usize,
}

impl Walk<'_> {
    fn visit(&mut self, id: Id, path: &mut Vec<String>) -> Result<(), String> {
        // A dictionary may hold itself.
        if path.len() > DEEPEST {
            return Err(format!("dictionaries lie in each other more than {DEEPEST} deep"));
        }
        let nodes = self.nodes;
        match &nodes[id as usize] {
            Node::Dict(items) => {
                // As in Python, the last of equal keys counts.
                let mut seen = HashSet::new();
                for &(key, value) in items.iter().rev() {
                    self.visits += 1;
                    let name = match &nodes[key as usize] {
                        Node::Text(name) if name.len() > LONGEST_NAME => {
                            return Err(format!("a key of {} characters", name.len()));
                        }
                        Node::Text(name) => name.clone(),
                        Node::Int(name) => name.to_string(),
                        _ => continue,
                    };
                    if seen.insert(name.clone()) {
                        self.child(name, value, path)?;
                    }
                }
            }
            Node::List(items) | Node::Tuple(items) => {
                for (i, &value) in items.iter().enumerate() {
                    self.visits += 1;
                    self.child(i.to_string(), value, path)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn child(&mut self, name: String, value: Id, path: &mut Vec<String>) -> Result<(), String> {
        if self.visits > MOST_VISITS {
            return Err(format!("more than {MOST_VISITS} values"));
        }
        match &self.nodes[value as usize] {
            Node::Tensor(view) => {
                let place = path.join("/");
                if place.len() > LONGEST_NAME || self.tables.len() >= MOST_TABLES {
                    return Err("too many dictionaries, or too deep ones".into());
                }
                let table = self.tables.entry(place).or_default();
                if table.insert(name.clone(), Stored { view: view.clone() }).is_some() {
                    return Err(format!("two tensors are named `{}`", name.escape_debug()));
                }
                Ok(())
            }
            Node::Dict(_) | Node::List(_) | Node::Tuple(_) => {
                path.push(name);
                let done = self.visit(value, path);
                path.pop();
                done
            }
            _ => Ok(()),
        }
    }
}
