//! TensorBoard event files.
//!
//! A file is a sequence of TFRecords: length as `u64`, masked CRC-32C of the length, payload, masked CRC-32C of the
//! payload, all little-endian. A payload is the protocol buffer `tensorflow.Event` (`event.proto`), of which four
//! fields are written here: `wall_time = 1`, `step = 2`, `file_version = 3`, `summary = 5`, and `session_log = 7`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// CRC-32C (Castagnoli: reflected polynomial 0x82f63b78), one byte at a time.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, b| CRC_TABLE[usize::from(crc as u8 ^ b)] ^ (crc >> 8))
}

/// TFRecord's mask, which keeps the checksum of data that holds checksums from degenerating.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(payload.len() + 16);
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(payload);
    out.extend(masked(payload).to_le_bytes());
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field of wire type 2: bytes, text or a message.
fn field(number: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(content.len() as u64, out);
    out.extend(content);
}

fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend(wall_time.to_le_bytes());
    out.push(2 << 3);
    varint(step, &mut out);
    out
}

/// `Summary { value { tag, simple_value } ... }` as an event.
fn scalars_event(wall_time: f64, step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        field(1, tag.as_bytes(), &mut entry);
        entry.push(2 << 3 | 5);
        entry.extend((*value as f32).to_le_bytes());
        field(1, &entry, &mut summary);
    }
    let mut out = event(wall_time, step);
    field(5, &summary, &mut out);
    out
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Appends scalars to an event file of its own.
///
/// File names and events hold the wall time, as TensorBoard demands; nothing else in a run does, and nothing compares
/// these files.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Begins a new event file in `folder`. On resume, give the step from which on events are written again: TensorBoard
    /// then drops what earlier files of the folder say about that step and later ones.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(folder: &Path, resumed_at: Option<u64>) -> Result<Self> {
        let listing = std::fs::read_dir(folder).map_err(Error::io(folder))?;
        let earlier = listing
            .filter_map(std::result::Result::ok)
            .filter(|e| e.file_name().to_string_lossy().contains("tfevents"))
            .count();
        // TensorBoard reads the files of a folder in the order of their names.
        let path = folder.join(format!("events.out.tfevents.{:010}.{earlier:04}", now() as u64));
        let file = OpenOptions::new().append(true).create_new(true).open(&path).map_err(Error::io(&path))?;
        let mut writer = Self { path, file };
        let mut first = event(now(), 0);
        field(3, b"brain.Event:2", &mut first);
        writer.put(&first)?;
        if let Some(step) = resumed_at {
            // SessionLog { status: START }
            let mut start = event(now(), step);
            field(7, &[1 << 3, 1], &mut start);
            writer.put(&start)?;
        }
        Ok(writer)
    }

    /// Where the events go.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes scalars (stored as `f32`) at a step.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        self.put(&scalars_event(now(), step, scalars))
    }

    fn put(&mut self, payload: &[u8]) -> Result<()> {
        // One write per record: a killed process leaves at most one cut record, which readers skip.
        self.file.write_all(&record(payload)).map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_golden_values() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        // tensorboard.compat.tensorflow_stub.pywrap_tensorflow.masked_crc32c(b"123456789")
        assert_eq!(masked(b"123456789"), 0xc78a_b0e5);
    }

    #[test]
    fn event_bytes_are_pinned() {
        // Event(wall_time=1.5, step=300, summary=Summary(value=[Value(tag="a", simple_value=2.0)])), as the Python
        // protocol buffers serialise it.
        let bytes = scalars_event(1.5, 300, &[("a", 2.0)]);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "09000000000000f83f10ac022a0a0a080a01611500000040");
    }

    /// A reader of its own: step, tag and value of all scalars, after both checksums.
    fn read(bytes: &[u8]) -> (Vec<String>, Vec<(u64, String, f32)>) {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
            let mut found = Vec::new();
            while !bytes.is_empty() {
                let key = varint(&mut bytes);
                let length = match key & 7 {
                    0 => {
                        found.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                        continue;
                    }
                    1 => 8,
                    5 => 4,
                    2 => varint(&mut bytes) as usize,
                    other => panic!("wire type {other}"),
                };
                found.push((key >> 3, bytes[..length].to_vec()));
                bytes = &bytes[length..];
            }
            found
        }
        let (mut versions, mut scalars) = (Vec::new(), Vec::new());
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = |r: &[u8], at: usize| u32::from_le_bytes(r[at..at + 4].try_into().unwrap());
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(word(rest, 8), masked(&rest[..8]));
            let payload = &rest[12..12 + length];
            assert_eq!(word(rest, 12 + length), masked(payload));
            rest = &rest[16 + length..];
            let mut step = 0;
            for (number, content) in fields(payload) {
                match number {
                    2 => step = u64::from_le_bytes(content.try_into().unwrap()),
                    3 => versions.push(String::from_utf8(content).unwrap()),
                    5 => {
                        for (_, value) in fields(&content) {
                            let parts = fields(&value);
                            let tag = String::from_utf8(parts[0].1.clone()).unwrap();
                            let value = f32::from_le_bytes(parts[1].1.clone().try_into().unwrap());
                            scalars.push((step, tag, value));
                        }
                    }
                    _ => {}
                }
            }
        }
        (versions, scalars)
    }

    #[test]
    fn what_is_written_reads_back() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let mut first = EventWriter::create(folder.path(), None)?;
        first.scalars(0, &[("train/loss", 1.25), ("train/lr", 0.5)])?;
        first.scalars(1_000_000, &[("train/loss", -3.0)])?;
        let (versions, scalars) = read(&std::fs::read(first.path()).unwrap());
        assert_eq!(versions, ["brain.Event:2"]);
        let expected = [(0, "train/loss", 1.25), (0, "train/lr", 0.5), (1_000_000, "train/loss", -3.0)];
        assert_eq!(scalars, expected.map(|(s, t, v)| (s, t.to_string(), v)));
        let second = EventWriter::create(folder.path(), Some(7))?;
        assert!(second.path() > first.path());
        Ok(())
    }
}
