//! What other libraries reached for the same budget: records of their own runs, beside ours and never among them.

use std::path::Path;

use anyhow::{Context, Result, bail};
use contrastive_core::eval::Protocol;
use serde::{Deserialize, Serialize};

/// One number that another implementation reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The name that the same method has in our rows.
    pub method: String,
    /// The library and what it ran on, with versions.
    pub implementation: String,
    /// The data set that was tested on, under our name.
    pub dataset: String,
    /// The protocol of ours that measures the same thing.
    pub protocol: String,
    /// The protocol as the peer's script defines it.
    pub definition: String,
    /// `top1`, ...
    pub metric: String,
    /// `%` or another unit.
    pub unit: String,
    /// What was measured.
    pub value: f64,
    /// The run's seed.
    pub seed: u64,
    /// Seconds of training behind the number.
    pub seconds: f64,
    /// The call of the peer's script.
    pub command: String,
}

impl Peer {
    /// The first cell of its line: set in italics, with the library's name before the method's.
    pub fn label(&self) -> String {
        format!("*{}: {}*", self.implementation, self.method)
    }
}

/// The records of a file; none if there is no file.
pub fn read(path: &Path) -> Result<Vec<Peer>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    let peers: Vec<Peer> =
        serde_json::from_str(&text).with_context(|| format!("{}: not a file of peers", path.display()))?;
    for peer in &peers {
        if Protocol::parse(&peer.protocol).is_err() {
            bail!("{}: no protocol `{}`", path.display(), peer.protocol);
        }
    }
    Ok(peers)
}
