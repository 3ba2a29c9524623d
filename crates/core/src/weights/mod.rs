//! Safetensors in and out, and the manifest that travels with them.
//!
//! Files are written whole or not at all ([`write_atomically`]) and equal content gives equal bytes, so that two runs
//! can be compared with `cmp`. Files are read with suspicion: whatever the header claims, the answer is tensors or an
//! [`crate::Error::Format`] that names the file.

mod atomic;
mod convert;
mod expected;
mod infer;
mod manifest;
mod named;
mod pretrained;
pub mod published;
mod settings;
pub mod tensorflow;
mod tensors;
pub mod torch;
mod transformers;

pub(crate) use atomic::TEMPORARY_PREFIX;
pub use atomic::write_atomically;
pub use convert::{Converted, Request, convert};
pub use infer::Hints;
pub use manifest::{DataIdentity, MANIFEST_VERSION, Manifest, Origin, load_encoder, save_encoder};
pub use named::{Named, check_numbers, save_named};
pub use pretrained::Pretrained;
pub use tensors::{METADATA_KEY, canonical_json, digest, load, save};

#[cfg(test)]
mod tests;
