//! Safetensors in and out, and the manifest that travels with them.
//!
//! Files are written whole or not at all ([`write_atomically`]) and equal content gives equal bytes, so that two runs
//! can be compared with `cmp`. Files are read with suspicion: whatever the header claims, the answer is tensors or an
//! [`crate::Error::Format`] that names the file.

mod atomic;
mod manifest;
mod tensors;

pub(crate) use atomic::TEMPORARY_PREFIX;
pub use atomic::write_atomically;
pub use manifest::{DataIdentity, MANIFEST_VERSION, Manifest, load_encoder, save_encoder};
pub use tensors::{METADATA_KEY, canonical_json, digest, load, save};

#[cfg(test)]
mod tests;
