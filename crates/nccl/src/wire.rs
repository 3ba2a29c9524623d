//! Messages of some bytes over a connection, with a point in time at which a reader gives up.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// No message of ours is longer; a length above it is a stranger's bytes.
const MOST: usize = 1 << 16;

/// Why no message came.
#[derive(Debug)]
pub enum Fault {
    /// The time is over.
    Late,
    /// The other side has closed the connection.
    Gone,
    /// The system's word, or bytes that are no message.
    Other(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Late,
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => Self::Gone,
            _ => Self::Other(error),
        }
    }
}

/// Sends one message.
pub fn send(mut to: &TcpStream, message: &[u8]) -> Result<(), Fault> {
    // In one piece: the length alone would be a packet of its own.
    let mut bytes = (message.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(message);
    Ok(to.write_all(&bytes)?)
}

/// Receives one message.
pub fn receive(from: &TcpStream, until: Instant) -> Result<Vec<u8>, Fault> {
    let mut length = [0; 4];
    fill(from, &mut length, until)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MOST {
        return Err(Fault::Other(io::Error::other(format!("a message of {length} bytes"))));
    }
    let mut message = vec![0; length];
    fill(from, &mut message, until)?;
    Ok(message)
}

/// As `read_exact`, but the time is that of the whole and not of each piece.
fn fill(mut from: &TcpStream, bytes: &mut [u8], until: Instant) -> Result<(), Fault> {
    let mut start = 0;
    while start < bytes.len() {
        let left = until.saturating_duration_since(Instant::now());
        // Zero would mean for ever.
        from.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match from.read(&mut bytes[start..]) {
            Ok(0) => return Err(Fault::Gone),
            Ok(n) => start += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
