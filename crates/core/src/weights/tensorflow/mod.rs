//! TensorFlow's checkpoints (`NAME.index` and `NAME.data-00000-of-00001`), as data.

mod table;
mod wire;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};
use wire::{Value, fields};

/// Bytes of an index.
const LONGEST_INDEX: u64 = 64 << 20;

/// A tensor in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its element type, where Candle has it.
    pub dtype: Option<DType>,
    shard: u64,
    offset: u64,
    size: u64,
}

/// A checkpoint whose index has been read.
#[derive(Debug)]
pub struct Bundle {
    index: PathBuf,
    shards: u64,
    variables: BTreeMap<String, Variable>,
}

impl Bundle {
    /// Whether a path is one: the index, or a name that has an index beside it.
    pub fn is(path: &Path) -> bool {
        index_of(path).is_file()
    }

    /// Reads the index of a checkpoint by its name (`model.ckpt-250228`) or the index itself.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a broken index, one of another byte order or with parts of tensors.
    pub fn open(path: &Path) -> Result<Self> {
        let index = index_of(path);
        let refuse = |reason: String| Error::format(&index, reason);
        let mut bytes = Vec::new();
        let file = File::open(&index).map_err(Error::io(&index))?;
        file.take(LONGEST_INDEX + 1).read_to_end(&mut bytes).map_err(Error::io(&index))?;
        if bytes.len() as u64 > LONGEST_INDEX {
            return Err(refuse(format!("more than {LONGEST_INDEX} bytes")));
        }
        let mut shards = None;
        let mut variables = BTreeMap::new();
        for (key, value) in table::entries(&bytes).map_err(refuse)? {
            if key.is_empty() {
                shards = Some(header(&value).map_err(refuse)?);
                continue;
            }
            let name = String::from_utf8(key).map_err(|_| refuse("a name that is no text".into()))?;
            let shown = name.escape_debug().to_string();
            let variable = entry(&value).map_err(|reason| refuse(format!("`{shown}`: {reason}")))?;
            variables.insert(name, variable);
        }
        let Some(shards) = shards else { return Err(refuse("no header".into())) };
        Ok(Self { index, shards, variables })
    }

    /// The index file.
    pub fn path(&self) -> &Path {
        &self.index
    }

    /// The tensors by name.
    pub fn variables(&self) -> &BTreeMap<String, Variable> {
        &self.variables
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// [`Error::Format`] for a name that there is not, an element type that Candle has not, a size that is not that of
    /// the shape; [`Error::Io`] for a file of data that is missing or too short.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let refuse = |reason: String| Error::format(&self.index, format!("`{name}`: {reason}"));
        let Some(variable) = self.variables.get(name) else { return Err(refuse("is not there".into())) };
        let Some(dtype) = variable.dtype else {
            return Err(refuse("an element type that is not read".into()));
        };
        let elements = variable.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        if elements.and_then(|n| n.checked_mul(dtype.size_in_bytes() as u64)) != Some(variable.size) {
            return Err(refuse(format!("{} bytes are not {:?}", variable.size, variable.shape)));
        }
        if variable.shard >= self.shards {
            return Err(refuse(format!("part {} of {}", variable.shard, self.shards)));
        }
        let stem = self.index.with_extension("");
        let name = stem.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path =
            self.index.with_file_name(format!("{name}.data-{:05}-of-{:05}", variable.shard, self.shards));
        let mut file = File::open(&path).map_err(Error::io(&path))?;
        let length = file.metadata().map_err(Error::io(&path))?.len();
        if variable.offset.checked_add(variable.size).is_none_or(|end| end > length) {
            return Err(Error::format(&path, format!("ends before the tensor at {}", variable.offset)));
        }
        let mut bytes = vec![0; variable.size as usize];
        file.seek(SeekFrom::Start(variable.offset)).map_err(Error::io(&path))?;
        file.read_exact(&mut bytes).map_err(Error::io(&path))?;
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &variable.shape, &Device::Cpu)?)
    }
}

fn index_of(path: &Path) -> PathBuf {
    if path.extension().is_some_and(|e| e == "index") {
        return path.to_path_buf();
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".index");
    path.with_file_name(name)
}

/// The number of data files.
fn header(bytes: &[u8]) -> Result<u64, String> {
    let mut shards = 1;
    for (field, value) in fields(bytes)? {
        match (field, value) {
            (1, Value::Number(n)) => shards = n,
            (2, Value::Number(n)) if n != 0 => return Err("its numbers are not little-endian".into()),
            _ => {}
        }
    }
    if (1..=99_999).contains(&shards) { Ok(shards) } else { Err(format!("{shards} files of data")) }
}

/// TensorFlow's numbers of element types.
fn dtype(number: u64) -> Option<DType> {
    match number {
        1 => Some(DType::F32),
        2 => Some(DType::F64),
        3 => Some(DType::I32),
        4 => Some(DType::U8),
        9 => Some(DType::I64),
        14 => Some(DType::BF16),
        19 => Some(DType::F16),
        _ => None,
    }
}

fn entry(bytes: &[u8]) -> Result<Variable, String> {
    let mut variable = Variable { shape: Vec::new(), dtype: None, shard: 0, offset: 0, size: 0 };
    for (field, value) in fields(bytes)? {
        match (field, value) {
            (1, Value::Number(n)) => variable.dtype = dtype(n),
            (2, Value::Bytes(shape)) => variable.shape = dims(shape)?,
            (3, Value::Number(n)) => variable.shard = n,
            (4, Value::Number(n)) => variable.offset = n,
            (5, Value::Number(n)) => variable.size = n,
            (7, _) => return Err("stored in slices, which is not read".into()),
            _ => {}
        }
    }
    Ok(variable)
}

/// Dimensions of a shape; at most eight.
fn dims(bytes: &[u8]) -> Result<Vec<usize>, String> {
    let mut dims = Vec::new();
    for (field, value) in fields(bytes)? {
        match (field, value) {
            (2, Value::Bytes(dim)) => {
                let size = fields(dim)?.into_iter().find_map(|(field, value)| match (field, value) {
                    (1, Value::Number(n)) => Some(n),
                    _ => None,
                });
                // A size of 0 is not written.
                let size = size.unwrap_or(0);
                dims.push(
                    usize::try_from(size).ok().filter(|n| *n <= 1 << 40).ok_or("an unknown dimension")?,
                );
            }
            (3, Value::Number(1)) => return Err("a shape that is not known".into()),
            _ => {}
        }
    }
    if dims.len() > 8 { Err(format!("{} dimensions", dims.len())) } else { Ok(dims) }
}

#[cfg(test)]
mod tests;
