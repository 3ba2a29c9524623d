//! Mel-frequency cepstral coefficients: the paper's baseline.

use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::config::RATE;

/// Settings of [`Mfcc`]. The default: 13 coefficients with first and second differences, 40 mel bands up to 8 kHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MfccConfig {
    /// Coefficients, the zeroth among them.
    pub coefficients: usize,
    /// Mel bands.
    pub bands: usize,
    /// Whether first and second differences over time are appended.
    pub differences: bool,
}

impl Default for MfccConfig {
    fn default() -> Self {
        Self { coefficients: 13, bands: 40, differences: true }
    }
}

/// Samples of a window (25 ms).
const WINDOW: usize = 400;
/// Samples from one frame to the next (10 ms): that of the paper's encoder.
const HOP: usize = 160;
/// Points of the transform.
const POINTS: usize = 512;
/// Added to the energy of each band before the logarithm.
const FLOOR: f64 = 1e-10;
/// Frames on both sides that a difference looks at.
const REACH: usize = 2;

/// Cepstra of one frame for every 10 ms, whose windows lie in the middle of those: frame `t` sees the samples
/// `160 t − 120 .. 160 t + 280`, zeros beyond the ends.
///
/// Per frame: Hann window (periodic), power spectrum by a transform of 512 points, triangular mel bands (HTK's scale,
/// 0 to 8 kHz, height 1), natural logarithm of `energy + 1e-10`, orthonormal cosine transform of type II. Differences are
/// the slopes of a line through five frames, the first and last frame repeated at the ends.
#[derive(Debug, Clone)]
pub struct Mfcc {
    config: MfccConfig,
    window: Vec<f64>,
    /// One weight for each band and bin, `[bands, POINTS / 2 + 1]`.
    filters: Vec<f64>,
    /// `[coefficients, bands]`.
    cosines: Vec<f64>,
    /// Cosine and sine of the transform.
    roots: Vec<(f64, f64)>,
}

impl Mfcc {
    /// With these settings.
    ///
    /// # Errors
    /// [`Error::Config`] for no coefficient, or more than there are bands, or more than 128 bands.
    pub fn new(config: MfccConfig) -> Result<Self> {
        let MfccConfig { coefficients, bands, .. } = config;
        if !(1..=128).contains(&bands) {
            return Err(Error::config("mfcc.bands", format!("must be from 1 to 128, got {bands}")));
        }
        if !(1..=bands).contains(&coefficients) {
            let reason = format!("must be from 1 to {bands} (bands), got {coefficients}");
            return Err(Error::config("mfcc.coefficients", reason));
        }
        let turn = std::f64::consts::TAU;
        let cosine = |i: usize, band: usize| {
            let scale = if i == 0 { 1.0 } else { 2.0 } / bands as f64;
            scale.sqrt() * (turn / 2.0 * i as f64 * (band as f64 + 0.5) / bands as f64).cos()
        };
        Ok(Self {
            config,
            window: (0..WINDOW).map(|i| 0.5 - 0.5 * (turn * i as f64 / WINDOW as f64).cos()).collect(),
            filters: filters(bands),
            cosines: (0..coefficients).flat_map(|i| (0..bands).map(move |band| cosine(i, band))).collect(),
            roots: (0..POINTS / 2)
                .map(|i| (turn * i as f64 / POINTS as f64).sin_cos())
                .map(|(s, c)| (c, -s))
                .collect(),
        })
    }

    /// Numbers in a frame.
    pub fn width(&self) -> usize {
        self.config.coefficients * if self.config.differences { 3 } else { 1 }
    }

    /// The frames of samples at 16 kHz, row by row: `[samples / 160, width]`.
    pub fn frames(&self, samples: &[f32]) -> Vec<f32> {
        let (count, n) = (samples.len() / HOP, self.config.coefficients);
        let mut cepstra = Vec::with_capacity(count * n);
        let mut points = vec![(0f64, 0f64); POINTS];
        for frame in 0..count {
            points.fill((0.0, 0.0));
            for (i, (point, window)) in points.iter_mut().zip(&self.window).enumerate() {
                let at = (frame * HOP + HOP / 2 + i).checked_sub(WINDOW / 2);
                let sample = at.and_then(|at| samples.get(at)).copied().unwrap_or(0.0);
                point.0 = window * f64::from(sample);
            }
            transform(&mut points, &self.roots);
            let power: Vec<f64> = points[..=POINTS / 2].iter().map(|(re, im)| re * re + im * im).collect();
            let energy = |filter: &[f64]| filter.iter().zip(&power).map(|(f, p)| f * p).sum::<f64>();
            let logarithms: Vec<f64> =
                self.filters.chunks_exact(power.len()).map(|filter| (energy(filter) + FLOOR).ln()).collect();
            let cepstrum = |row: &[f64]| row.iter().zip(&logarithms).map(|(c, l)| c * l).sum::<f64>();
            cepstra.extend(self.cosines.chunks_exact(self.config.bands).map(cepstrum));
        }
        let parts = if self.config.differences {
            let first = slopes(&cepstra, n);
            let second = slopes(&first, n);
            vec![cepstra, first, second]
        } else {
            vec![cepstra]
        };
        let row = |t: usize| parts.iter().flat_map(move |part| &part[t * n..(t + 1) * n]).map(|x| *x as f32);
        (0..count).flat_map(row).collect()
    }
}

/// HTK's mel scale.
fn mel(hertz: f64) -> f64 {
    2595.0 * (1.0 + hertz / 700.0).log10()
}

fn hertz(mel: f64) -> f64 {
    700.0 * (10f64.powf(mel / 2595.0) - 1.0)
}

fn filters(bands: usize) -> Vec<f64> {
    let top = f64::from(RATE) / 2.0;
    let corner = |i: usize| hertz(mel(top) * i as f64 / (bands + 1) as f64);
    let weight = |band: usize, bin: usize| {
        let f = bin as f64 * f64::from(RATE) / POINTS as f64;
        let [low, middle, high] = [band, band + 1, band + 2].map(corner);
        ((f - low) / (middle - low)).min((high - f) / (high - middle)).max(0.0)
    };
    (0..bands).flat_map(|band| (0..=POINTS / 2).map(move |bin| weight(band, bin))).collect()
}

/// The discrete Fourier transform in place, by halves (Cooley and Tukey); the length is a power of two.
fn transform(points: &mut [(f64, f64)], roots: &[(f64, f64)]) {
    let n = points.len();
    let bits = n.trailing_zeros();
    for i in 0..n {
        let j = i.reverse_bits() >> (usize::BITS - bits);
        if i < j {
            points.swap(i, j);
        }
    }
    let mut half = 1;
    while half < n {
        for block in points.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (i, (a, b)) in low.iter_mut().zip(high).enumerate() {
                let (c, s) = roots[i * (n / 2 / half)];
                let turned = (b.0 * c - b.1 * s, b.0 * s + b.1 * c);
                *b = (a.0 - turned.0, a.1 - turned.1);
                *a = (a.0 + turned.0, a.1 + turned.1);
            }
        }
        half *= 2;
    }
}

/// The slope over time of every coefficient.
fn slopes(x: &[f64], n: usize) -> Vec<f64> {
    let count = x.len() / n.max(1);
    let norm = 2.0 * (1..=REACH).map(|r| (r * r) as f64).sum::<f64>();
    let slope = |t: usize, i: usize| {
        let at = |t: usize| x[t.min(count - 1) * n + i];
        (1..=REACH).map(|r| r as f64 * (at(t + r) - at(t.saturating_sub(r)))).sum::<f64>() / norm
    };
    (0..count).flat_map(|t| (0..n).map(move |i| (t, i))).map(|(t, i)| slope(t, i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tones and a click, as the script makes them.
    fn sound() -> Vec<f32> {
        let mut samples: Vec<f32> = (0..1700)
            .map(|i| {
                let t = f64::from(i) / 16_000.0;
                let tones = 0.3 * (std::f64::consts::TAU * 440.0 * t).sin()
                    + 0.1 * (std::f64::consts::TAU * (2000.0 + 8000.0 * t) * t).sin();
                tones as f32
            })
            .collect();
        samples[900] += 0.5;
        samples
    }

    #[test]
    fn equals_numpys() -> Result<()> {
        let fixture = include_str!("../../tests/fixtures/mfcc.json");
        let expected: Vec<f64> = serde_json::from_str(fixture).expect("mfcc.json");
        let mfcc = Mfcc::new(MfccConfig::default())?;
        let got = mfcc.frames(&sound());
        assert_eq!((mfcc.width(), got.len(), expected.len()), (39, 390, 390));
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let gap = (f64::from(*got) - expected).abs();
            assert!(gap < 1e-4, "frame {}, number {}: {got}, numpy has {expected}", i / 39, i % 39);
        }
        let plain = Mfcc::new(MfccConfig { differences: false, ..MfccConfig::default() })?.frames(&sound());
        assert_eq!(plain[..13], got[..13]);
        assert!(mfcc.frames(&[]).is_empty() && mfcc.frames(&[0.1; 159]).is_empty());
        assert!(mfcc.frames(&[0.0; 400]).iter().all(|x| x.is_finite()));
        Ok(())
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for (coefficients, bands) in [(0, 40), (41, 40), (13, 0), (13, 500)] {
            assert!(Mfcc::new(MfccConfig { coefficients, bands, differences: true }).is_err());
        }
    }
}
