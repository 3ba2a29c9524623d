//! Recordings from files (feature `audio`).
//!
//! WAV (RIFF), FLAC and NIST SPHERE files of any rate and any number of channels become one channel at 16 kHz:
//! channels are averaged, other rates are [resampled](resample()).

mod corpus;
mod embedded;
mod flac;
mod resample;
mod sphere;
#[cfg(test)]
mod tests;
mod wav;

pub use corpus::{Corpus, Layout, LoadOptions};
pub use embedded::librispeech;
pub use resample::resample;

use std::path::Path;

use contrastive_core::{Error, Result};

/// Sound as it is in a file, channels averaged.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    /// The samples, in −1..1.
    pub samples: Vec<f32>,
    /// Samples in a second.
    pub rate: u32,
}

/// Reads a file; what it is, its first bytes say.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for anything else than a WAV, FLAC or NIST SPHERE file of plain samples, or a broken
/// one.
pub fn read(path: &Path) -> Result<Sound> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let sound = match bytes.get(..4) {
        Some(b"RIFF") => wav::decode(&bytes),
        Some(b"fLaC") => flac::decode(bytes),
        Some(b"NIST") => sphere::decode(&bytes),
        _ => Err("is no WAV, FLAC or NIST SPHERE file".to_string()),
    };
    let sound = sound.map_err(|reason| Error::format(path, reason))?;
    if sound.samples.is_empty() {
        return Err(Error::format(path, "holds no samples"));
    }
    if !(1000..=768_000).contains(&sound.rate) {
        return Err(Error::format(path, format!("{} samples in a second are no sound", sound.rate)));
    }
    Ok(sound)
}

/// Reads a file as samples at 16 kHz.
///
/// # Errors
/// As [`read`].
pub fn read_16k(path: &Path) -> Result<Vec<f32>> {
    let sound = read(path)?;
    resample(&sound.samples, sound.rate, crate::speech::RATE).map_err(|error| Error::format(path, error))
}

/// The mean over channels of interleaved samples.
fn mix(interleaved: &[f32], channels: usize) -> Vec<f32> {
    if channels == 1 {
        return interleaved.to_vec();
    }
    let mean = |frame: &[f32]| frame.iter().sum::<f32>() / channels as f32;
    interleaved.chunks_exact(channels.max(1)).map(mean).collect()
}
