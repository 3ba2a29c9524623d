//! The bytes of a pickle: in memory, or a file of which only a part is read.

use std::io::{BufRead, Seek};

use super::machine::Read;

/// Bytes with a place in them.
pub(super) struct Input<R> {
    reader: R,
    at: u64,
    length: u64,
    /// Bytes that may still be read, passed ones left aside.
    left: u64,
}

/// The opcodes and texts of a pickle have some hundred bytes for each tensor.
const MOST_READ: u64 = 16 << 20;

impl<R: BufRead + Seek> Input<R> {
    /// `length` bytes from the reader's place on, which is called 0.
    pub(super) fn new(reader: R, length: u64) -> Self {
        Self { reader, at: 0, length, left: MOST_READ }
    }

    /// The place.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Goes on by `count` bytes, if there are as many.
    fn advance(&mut self, count: u64) -> Read<()> {
        let rest = self.length - self.at;
        if count > rest {
            return Err(format!("ends {} bytes early", count - rest));
        }
        self.at += count;
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Read<()> {
        self.advance(bytes.len() as u64)?;
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| format!("more than {MOST_READ} bytes beside the arrays"))?;
        self.reader.read_exact(bytes).map_err(|e| e.to_string())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn take(&mut self, count: usize) -> Read<Vec<u8>> {
        // Before memory is asked for.
        if count as u64 > self.length - self.at {
            self.advance(count as u64)?;
        }
        if count as u64 > self.left {
            return Err(format!("more than {MOST_READ} bytes beside the arrays"));
        }
        let mut bytes = vec![0; count];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn skip(&mut self, count: usize) -> Read<()> {
        self.advance(count as u64)?;
        let count = i64::try_from(count).map_err(|_| format!("{count} bytes are too many"))?;
        self.reader.seek_relative(count).map_err(|e| e.to_string())
    }

    pub(super) fn length4(&mut self) -> Read<usize> {
        // As a signed number it would be negative beyond this.
        let length = u32::from_le_bytes(self.array()?);
        i32::try_from(length).map(|n| n as usize).map_err(|_| format!("{length} bytes are too many"))
    }

    pub(super) fn length8(&mut self) -> Read<usize> {
        let length = u64::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| format!("{length} bytes are too many"))
    }

    pub(super) fn line(&mut self) -> Read<String> {
        // No name is longer; a search through the whole file would be.
        let mut line = Vec::new();
        loop {
            match self.byte() {
                Ok(b'\n') => break,
                Ok(byte) if line.len() < 1024 => line.push(byte),
                _ => return Err("a global's name does not end".into()),
            }
        }
        String::from_utf8(line).map_err(|_| "a global's name is not UTF-8".into())
    }
}
