//! Other rates, by rubato.

use contrastive_core::{Error, Result};
use rubato::audioadapter_buffers::owned::InterleavedOwned;
use rubato::{Async, FixedAsync, Resampler, SincInterpolationParameters};

/// Samples at `from` a second as samples at `to` a second, by windowed sinc interpolation with rubato's defaults, in
/// time to one sample. The same bytes for the same samples.
///
/// # Errors
/// [`Error::Data`] for rates that rubato refuses (0, or hundreds of times apart).
pub fn resample(samples: &[f32], from: u32, to: u32) -> Result<Vec<f32>> {
    const CHUNK: usize = 1024;
    if from == to {
        return Ok(samples.to_vec());
    }
    let fault = |reason: String| Error::data(format!("resampling from {from} to {to} Hz"), reason);
    let ratio = f64::from(to) / f64::from(from);
    let parameters = SincInterpolationParameters::default();
    let mut resampler = Async::<f32>::new_sinc(ratio, 1.0, &parameters, CHUNK, 1, FixedAsync::Input)
        .map_err(|e| fault(e.to_string()))?;
    let input =
        InterleavedOwned::new_from(samples.to_vec(), 1, samples.len()).map_err(|e| fault(e.to_string()))?;
    let output = resampler.process_all(&input, samples.len(), None).map_err(|e| fault(e.to_string()))?;
    Ok(output.take_data())
}
