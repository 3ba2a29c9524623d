//! Where the parts of a PyTorch file lie: in a zip archive (since 1.6) or one after the other (before).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::machine::{self, Pickle};
use super::value::{Element, Node};
use crate::{Error, Result};

/// Bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub start: u64,
    pub len: u64,
    /// Whether the bytes that are meant are the characters of a text here.
    pub text: bool,
}

/// A file that has been looked through: its pickle and where its storages are.
pub(super) struct Archive {
    pub pickle: Pickle,
    pub storages: HashMap<String, Region>,
}

/// The pickle of a checkpoint has some hundred bytes for each tensor.
const LONGEST_PICKLE: u64 = 16 << 20;
/// Entries of an archive: one for each storage.
const MOST_ENTRIES: usize = 1 << 16;

/// Reads the structure of a file.
pub(super) fn open(path: &Path, skipped: &[String]) -> Result<Archive> {
    let refuse = |reason: String| Error::format(path, reason);
    let mut file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut magic = Vec::new();
    (&mut file).take(512).read_to_end(&mut magic).map_err(Error::io(path))?;
    file.rewind().map_err(Error::io(path))?;
    match magic.as_slice() {
        [b'P', b'K', ..] => zipped(file, length, skipped).map_err(refuse),
        [0x80, 1..=5, ..] if magic.windows(MAGIC.len()).take(32).any(|part| part == MAGIC) => {
            legacy(file, length, skipped).map_err(refuse)
        }
        [0x80, 1..=5, ..] => pickled(file, length, skipped).map_err(refuse),
        _ if magic.get(257..262) == Some(b"ustar") => Err(refuse(
            "a tar archive, as PyTorch before 0.1.10 wrote: save it again with a newer PyTorch".into(),
        )),
        [] => Err(refuse("the file is empty".into())),
        _ if magic.get(8) == Some(&b'{') => {
            Err(refuse("a safetensors file, which needs no conversion".into()))
        }
        _ => Err(refuse("neither PyTorch's zip format nor its older one".into())),
    }
}

/// PyTorch's format since 1.6: `NAME/data.pkl` and `NAME/data/KEY`.
fn zipped(file: File, length: u64, skipped: &[String]) -> Result<Archive, String> {
    let fault = |e: zip::result::ZipError| format!("not a whole zip archive: {e}");
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(fault)?;
    if zip.len() > MOST_ENTRIES {
        return Err(format!("an archive of {} entries, more than {MOST_ENTRIES}", zip.len()));
    }
    let mut entries: HashMap<String, Region> = HashMap::new();
    let mut root: Option<String> = None;
    for i in 0..zip.len() {
        let entry = zip.by_index_raw(i).map_err(fault)?;
        let name = entry.name().map_err(fault)?.into_owned();
        if name.split(['/', '\\']).any(|part| part == "..") || name.starts_with(['/', '\\']) {
            return Err(format!("entry `{}` points outside the archive", name.escape_debug()));
        }
        if entry.encrypted() {
            return Err(format!("entry `{}` is encrypted", name.escape_debug()));
        }
        // PyTorch never compresses. Without compression every byte that is read is a byte of the file.
        if entry.compression() != CompressionMethod::Stored || entry.size() != entry.compressed_size() {
            return Err(format!("entry `{}` is compressed, which PyTorch's are not", name.escape_debug()));
        }
        let start =
            entry.data_start().ok_or_else(|| format!("entry `{}` has no data", name.escape_debug()))?;
        if start.checked_add(entry.size()).is_none_or(|end| end > length) {
            return Err(format!("entry `{}` leaves the file", name.escape_debug()));
        }
        if let Some(folder) = name.strip_suffix("data.pkl").filter(|f| f.is_empty() || f.ends_with('/')) {
            match root {
                Some(_) => return Err("two entries are called `data.pkl`".into()),
                None => root = Some(folder.to_string()),
            }
        }
        entries.insert(name, Region { start, len: entry.size(), text: false });
    }
    let Some(root) = root else { return Err("a zip archive without `data.pkl`: not from torch.save".into()) };
    if entries.contains_key(&format!("{root}constants.pkl")) {
        return Err("a TorchScript program, not a checkpoint: save its state_dict()".into());
    }
    let mut file = zip.into_inner().into_inner();
    let mut read = |name: &str, most: u64| match entries.get(&format!("{root}{name}")) {
        Some(region) if region.len > most => {
            Err(format!("`{name}` has {} bytes, more than {most}", region.len))
        }
        Some(region) => bytes(&mut file, *region).map(Some).map_err(|e| e.to_string()),
        None => Ok(None),
    };
    if read("byteorder", 64)?.is_some_and(|order| order != b"little") {
        return Err("the file's numbers are not little-endian".into());
    }
    let pickled = read("data.pkl", LONGEST_PICKLE)?.unwrap_or_default();
    let pickle = machine::read(&pickled, skipped)?;
    let data = format!("{root}data/");
    let own = |(name, region): (String, Region)| Some((name.strip_prefix(&data)?.to_string(), region));
    Ok(Archive { pickle, storages: entries.into_iter().filter_map(own).collect() })
}

/// One pickle with numpy's arrays in it.
fn pickled(file: File, length: u64, skipped: &[String]) -> Result<Archive, String> {
    let mut pickle = machine::read_file(file, length, skipped)?;
    let storages = std::mem::take(&mut pickle.regions);
    if storages.is_empty() {
        return Err("a pickle, but not from torch.save, and without numpy's arrays".into());
    }
    Ok(Archive { pickle, storages })
}

/// What the first pickle of an old file holds.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// PyTorch's format before 1.6: five pickles (magic number, version, machine, the object, the keys of its storages), then
/// each storage as its length and its elements.
fn legacy(mut file: File, length: u64, skipped: &[String]) -> Result<Archive, String> {
    let head = Region { start: 0, len: length.min(LONGEST_PICKLE), text: false };
    let head = bytes(&mut file, head).map_err(|e| e.to_string())?;
    let mut at = 0;
    let mut next = || -> Result<Pickle, String> {
        let pickle = machine::read(&head[at..], skipped)?;
        at += pickle.length;
        Ok(pickle)
    };
    let root = |pickle: &Pickle| pickle.nodes[pickle.root as usize].clone();
    match root(&next()?) {
        Node::Long(bytes) if bytes == MAGIC => {}
        _ => return Err("a pickle, but not from torch.save".into()),
    }
    match root(&next()?) {
        Node::Int(1001) => {}
        _ => return Err("a version of PyTorch's older format that is not known".into()),
    }
    let system = next()?;
    let value = |id: u32| &system.nodes[id as usize];
    if let Node::Dict(items) = root(&system) {
        let is_order = |id: u32| matches!(value(id), Node::Text(name) if name == "little_endian");
        if items.iter().any(|&(key, order)| is_order(key) && matches!(value(order), Node::Bool(false))) {
            return Err("the file's numbers are not little-endian".into());
        }
    }
    let pickle = next()?;
    let keys = next()?;
    let Node::List(keys_list) = root(&keys) else {
        return Err("the keys of the storages are no list".into());
    };
    let known: HashMap<&str, (Element, usize)> = pickle.nodes.iter().filter_map(stored).collect();
    let mut storages = HashMap::new();
    let mut place = at as u64;
    for id in keys_list {
        let key = match &keys.nodes[id as usize] {
            Node::Text(key) => key.clone(),
            Node::Int(key) => key.to_string(),
            other => return Err(format!("a storage's key is {}", other.kind())),
        };
        let Some(&(element, whole)) = known.get(key.as_str()) else {
            return Err(format!("storage `{}` is in the file but not in its pickle", key.escape_debug()));
        };
        if length.saturating_sub(place) < 8 {
            return Err(format!("the file ends before storage `{}`", key.escape_debug()));
        }
        let count =
            bytes(&mut file, Region { start: place, len: 8, text: false }).map_err(|e| e.to_string())?;
        let mut word = [0; 8];
        word.copy_from_slice(&count);
        let count = u64::from_le_bytes(word);
        if count != whole as u64 {
            return Err(format!("storage `{}` has {count} elements and not {whole}", key.escape_debug()));
        }
        let len = count.saturating_mul(element.size() as u64);
        let region = Region { start: place + 8, len, text: false };
        if region.len > length - region.start {
            return Err(format!("the file ends within storage `{}`", key.escape_debug()));
        }
        place = region.start + region.len;
        storages.insert(key, region);
    }
    drop(known);
    Ok(Archive { pickle, storages })
}

/// Key, type and length of a storage.
fn stored(node: &Node) -> Option<(&str, (Element, usize))> {
    match node {
        Node::Storage(storage) => Some((storage.key.as_str(), (storage.element, storage.whole))),
        _ => None,
    }
}

/// The bytes of a region that is known to lie in the file.
pub(super) fn bytes(file: &mut File, region: Region) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; region.len as usize];
    file.seek(SeekFrom::Start(region.start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
