//! Named tensors and a JSON value in one safetensors file.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value};

use super::write_atomically;
use crate::{Error, Result};

/// The one key of the safetensors metadata. More than one would come out in random order from writers that keep them
/// in a hash map, and two equal files would differ.
pub const METADATA_KEY: &str = "contrastive";

/// JSON without spaces and with sorted keys, whatever map type is behind [`Value`].
pub fn canonical_json(value: &Value) -> String {
    sorted(value).to_string()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            Value::Object(keys.into_iter().map(|k| (k.clone(), sorted(&map[k]))).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn file_dtype(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::U8 => Some("U8"),
        DType::U32 => Some("U32"),
        DType::I16 => Some("I16"),
        DType::I32 => Some("I32"),
        DType::I64 => Some("I64"),
        DType::F16 => Some("F16"),
        DType::BF16 => Some("BF16"),
        DType::F32 => Some("F32"),
        DType::F64 => Some("F64"),
        _ => None,
    }
}

/// The elements in row-major order, little-endian.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(tensor.elem_count() * tensor.dtype().size_in_bytes());
    tensor.write_bytes(&mut bytes)?;
    Ok(bytes)
}

/// Writes named tensors and `metadata` to `path`, whole or not at all ([`write_atomically`]).
///
/// The bytes depend on the content alone, not on the order of `tensors`: wider element types come first, so that every
/// tensor is aligned, and names decide among equals. At most one tensor at a time is copied to host memory.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for a name that comes twice or an element type that the format has not; a tensor
/// that cannot be read back from its device. The old file is then untouched.
pub fn save(path: &Path, tensors: &[(String, Tensor)], metadata: &Value) -> Result<()> {
    let outline = |(name, t): &(String, Tensor)| (name.clone(), t.dtype(), t.dims().to_vec());
    let outlines: Vec<Outline> = tensors.iter().map(outline).collect();
    save_each(path, &outlines, metadata, |i| Ok(tensors[i].1.clone()))
}

/// Name, element type and shape of a tensor that is still to come.
pub(super) type Outline = (String, DType, Vec<usize>);

/// [`save`] of tensors that are made one by one, in the order of the file: `tensor` is given their places in `outlines`
/// and is held against them.
pub(super) fn save_each(
    path: &Path,
    outlines: &[Outline],
    metadata: &Value,
    mut tensor: impl FnMut(usize) -> Result<Tensor>,
) -> Result<()> {
    let mut order: Vec<usize> = (0..outlines.len()).collect();
    order.sort_by(|&i, &j| {
        let ((a, x, _), (b, y, _)) = (&outlines[i], &outlines[j]);
        y.size_in_bytes().cmp(&x.size_in_bytes()).then_with(|| a.cmp(b))
    });
    let quoted = |text: &str| Value::String(text.to_string()).to_string();
    let mut header =
        format!("{{\"__metadata__\":{{{}:{}}}", quoted(METADATA_KEY), quoted(&canonical_json(metadata)));
    let mut offset = 0;
    let mut seen = std::collections::HashSet::new();
    for (name, dtype, dims) in order.iter().map(|&i| &outlines[i]) {
        if name == "__metadata__" || !seen.insert(name) {
            return Err(Error::format(path, format!("two tensors are named `{name}`")));
        }
        let size = dtype.size_in_bytes();
        let Some(dtype) = file_dtype(*dtype) else {
            return Err(Error::format(path, format!("`{name}` has element type {dtype:?}")));
        };
        let end = offset + dims.iter().product::<usize>() * size;
        let (shape, key) = (Value::from(dims.as_slice()), quoted(name));
        header.push_str(&format!(
            ",{key}:{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{offset},{end}]}}"
        ));
        offset = end;
    }
    header.push('}');
    // The data begins at a multiple of 8.
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    write_atomically(path, |file| {
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io(path));
        put(&(header.len() as u64).to_le_bytes())?;
        put(header.as_bytes())?;
        for i in order {
            let (tensor, (name, dtype, dims)) = (tensor(i)?, &outlines[i]);
            if tensor.dtype() != *dtype || tensor.dims() != dims {
                return Err(Error::format(path, format!("`{name}` is not the tensor that was announced")));
            }
            put(&bytes_of(&tensor)?)?;
        }
        Ok(())
    })
}

/// Reads all tensors of `path` to host memory, and the metadata under [`METADATA_KEY`] (`null` where the file has
/// none, as files of other programs).
///
/// `U64` becomes `I64` and `BOOL` becomes `U8`, because Candle has neither.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for anything but a whole safetensors file: truncated, trailing bytes, offsets that
/// overlap or do not fit the shape, an element type that Candle cannot hold. No claim of the header is believed before
/// it is checked against the length of the file.
pub fn load(path: &Path) -> Result<(HashMap<String, Tensor>, Value)> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let refuse = |reason: String| Error::format(path, format!("not a whole safetensors file: {reason}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| refuse(e.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| refuse(e.to_string()))?;
    let metadata = match header.metadata().as_ref().and_then(|m| m.get(METADATA_KEY)) {
        Some(text) => serde_json::from_str(text)
            .map_err(|e| Error::format(path, format!("metadata `{METADATA_KEY}`: {e}")))?,
        None => Value::Null,
    };
    let mut tensors = HashMap::new();
    for (name, view) in file.iter() {
        let tensor =
            read_tensor(&view).map_err(|reason| Error::format(path, format!("`{name}`: {reason}")))?;
        tensors.insert(name.to_string(), tensor);
    }
    Ok((tensors, metadata))
}

fn read_tensor(view: &TensorView<'_>) -> Result<Tensor, String> {
    let shape = view.shape();
    // Beside a zero, dimensions could be large enough for the strides to overflow.
    let positive = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    if positive.is_none_or(|n| n > isize::MAX as usize) {
        return Err(format!("shape {shape:?} is too large"));
    }
    let data = view.data();
    let raw = |data: &[u8], dtype| {
        Tensor::from_raw_buffer(data, dtype, shape, &Device::Cpu).map_err(|e| e.to_string())
    };
    match view.dtype() {
        Dtype::U8 => raw(data, DType::U8),
        Dtype::BOOL => raw(data, DType::U8),
        Dtype::U32 => raw(data, DType::U32),
        Dtype::I16 => raw(data, DType::I16),
        Dtype::I32 => raw(data, DType::I32),
        Dtype::I64 => raw(data, DType::I64),
        Dtype::U64 => {
            let largest = i64::MAX as u64;
            let too_large = |word: &[u8]| word.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)) > largest;
            match data.chunks(8).any(too_large) {
                true => Err(format!("a U64 element exceeds {largest}")),
                false => raw(data, DType::I64),
            }
        }
        Dtype::F16 => raw(data, DType::F16),
        Dtype::BF16 => raw(data, DType::BF16),
        Dtype::F32 => raw(data, DType::F32),
        Dtype::F64 => raw(data, DType::F64),
        other => Err(format!("element type {other:?} is not supported")),
    }
}

/// BLAKE3 over names, element types, shapes and elements, in hexadecimal; independent of the order of `tensors`.
///
/// # Errors
/// A tensor that cannot be read back from its device.
pub fn digest<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<String> {
    let mut order: Vec<(&str, &Tensor)> = tensors.into_iter().collect();
    order.sort_by_key(|(name, _)| *name);
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in order {
        let title = format!("{} {name} {:?} {:?}\n", name.len(), tensor.dtype(), tensor.dims());
        hasher.update(title.as_bytes());
        hasher.update(&bytes_of(tensor)?);
    }
    Ok(hasher.finalize().to_hex().to_string())
}
