//! The index of a TensorFlow checkpoint: a sorted table as LevelDB writes it, not compressed.

use super::wire::varint;

/// The last bytes of a table.
const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
const FOOTER: usize = 48;
/// Bytes behind a block: how it is compressed, and a checksum.
const TRAILER: usize = 5;
/// Bytes of a key; names of variables are far below.
const LONGEST_KEY: usize = 4096;
/// Entries of a table; each tensor is one.
const MOST_ENTRIES: usize = 1 << 16;

/// Key and value.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// Every entry of a table, in order.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let place = bytes.len().checked_sub(FOOTER).ok_or("too short for an index of TensorFlow's")?;
    let footer = &bytes[place..];
    if footer[FOOTER - 8..] != MAGIC {
        return Err("not an index of a TensorFlow checkpoint".into());
    }
    let mut handles = &footer[..FOOTER - 8];
    // The first is of a part that holds nothing here.
    handle(&mut handles)?;
    let index = handle(&mut handles)?;
    let mut all = Vec::new();
    for (_, value) in block(bytes, index)? {
        let mut value = value.as_slice();
        all.extend(block(bytes, handle(&mut value)?)?);
        if all.len() > MOST_ENTRIES {
            return Err(format!("more than {MOST_ENTRIES} entries"));
        }
    }
    Ok(all)
}

/// Offset and length of a block.
fn handle(bytes: &mut &[u8]) -> Result<[u64; 2], String> {
    Ok([varint(bytes)?, varint(bytes)?])
}

/// The entries of a block: keys share their beginnings with the key before.
fn block(bytes: &[u8], [offset, length]: [u64; 2]) -> Result<Vec<Entry>, String> {
    let outside = || format!("a block at {offset} of {length} bytes leaves the file");
    let start = usize::try_from(offset).map_err(|_| outside())?;
    let end =
        usize::try_from(length).ok().and_then(|length| start.checked_add(length)).ok_or_else(outside)?;
    if end.checked_add(TRAILER).is_none_or(|end| end > bytes.len()) {
        return Err(outside());
    }
    if bytes[end] != 0 {
        return Err("a compressed block, which TensorFlow's checkpoints do not have".into());
    }
    let block = &bytes[start..end];
    // Behind the entries stand the places where keys begin anew, and their number.
    let restarts = block.len().checked_sub(4).ok_or("a block without an end")?;
    let mut word = [0; 4];
    word.copy_from_slice(&block[restarts..]);
    let count = u32::from_le_bytes(word) as usize;
    let length =
        count.checked_mul(4).and_then(|size| restarts.checked_sub(size)).ok_or("a block without entries")?;
    let mut left = &block[..length];
    let mut key: Vec<u8> = Vec::new();
    let mut found = Vec::new();
    while !left.is_empty() {
        let [shared, own, value] = [varint(&mut left)?, varint(&mut left)?, varint(&mut left)?];
        let size = |n: u64| usize::try_from(n).ok().filter(|n| *n <= left.len());
        let (Some(own), Some(value)) = (size(own), size(value)) else {
            return Err("an entry leaves its block".into());
        };
        let shared = usize::try_from(shared).ok().filter(|shared| *shared <= key.len());
        let shared = shared.ok_or("a key shares more than the one before has")?;
        if shared + own > LONGEST_KEY || own + value > left.len() || found.len() >= MOST_ENTRIES {
            return Err("an entry is too long".into());
        }
        key.truncate(shared);
        key.extend_from_slice(&left[..own]);
        found.push((key.clone(), left[own..own + value].to_vec()));
        left = &left[own + value..];
    }
    Ok(found)
}
