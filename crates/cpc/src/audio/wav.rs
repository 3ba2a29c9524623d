//! WAV files, by hound.

use hound::{SampleFormat, WavReader};

use super::{Sound, mix};

pub(super) fn decode(bytes: &[u8]) -> Result<Sound, String> {
    let mut reader = WavReader::new(bytes).map_err(|e| format!("WAV: {e}"))?;
    let spec = reader.spec();
    let interleaved: Result<Vec<f32>, hound::Error> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect(),
        SampleFormat::Int => {
            let scale = 1.0 / 2f64.powi(i32::from(spec.bits_per_sample) - 1);
            let value = |x: Result<i32, _>| x.map(|x| (f64::from(x) * scale) as f32);
            reader.samples::<i32>().map(value).collect()
        }
    };
    let interleaved = interleaved.map_err(|e| format!("WAV: {e}"))?;
    Ok(Sound { samples: mix(&interleaved, usize::from(spec.channels)), rate: spec.sample_rate })
}
