//! Voices made of a pulse train and three resonances: a small collection without any file.
//!
//! Every speaker has a pitch and a length of the vocal tract; every phone has formants (vowels) or a band of noise
//! (fricatives). It is no speech, but it has what CPC is about: slow content (phones, speakers) behind fast samples.

use contrastive_core::Result;
use contrastive_core::rng::{Key, Purpose, Stream};

use super::config::RATE;
use super::recordings::{Recording, Recordings, Segment};

/// Formants of the vowels in Hz (rounded from tables of English vowels).
const VOWELS: [[f64; 3]; 6] = [
    [270.0, 2290.0, 3010.0],
    [530.0, 1840.0, 2480.0],
    [730.0, 1090.0, 2440.0],
    [570.0, 840.0, 2410.0],
    [300.0, 870.0, 2240.0],
    [490.0, 1350.0, 1690.0],
];
/// Middle of the noise of the fricatives in Hz.
const FRICATIVES: [f64; 2] = [2700.0, 5200.0];
/// The class of silence.
const SILENCE: u32 = (VOWELS.len() + FRICATIVES.len()) as u32;
/// Classes of phones: vowels, fricatives, silence.
pub const PHONES: usize = SILENCE as usize + 1;

/// `speakers` voices with `each` recordings of about `seconds` each, with phones. The same for the same seed.
///
/// # Errors
/// No speaker or no recording.
pub fn voices(speakers: usize, each: usize, seconds: f64, seed: u64) -> Result<Recordings> {
    let mut all = Vec::with_capacity(speakers * each);
    for speaker in 0..speakers {
        let mut draws = Key::new(seed, Purpose::Data).name("voice").view(speaker as u64).stream();
        let voice = Voice {
            // Even steps of pitch, so that few speakers are apart, with a little disorder.
            pitch: 85.0 * (3.0f64).powf((speaker as f64 + 0.5 * draws.unit()) / speakers as f64),
            tract: draws.uniform(0.85, 1.2),
            breath: draws.uniform(0.01, 0.06),
        };
        for number in 0..each {
            let key = Key::new(seed, Purpose::Data).epoch(1 + number as u64).view(speaker as u64);
            let (samples, phones) = voice.speak((seconds * f64::from(RATE)) as usize, &mut key.stream());
            let name = format!("voice{speaker}/{number}");
            all.push(Recording { name, samples, speaker: speaker as u32, word: None, phones });
        }
    }
    Recordings::new("synthetic-voices", all, (0..speakers).map(|i| format!("voice{i}")).collect())
}

struct Voice {
    pitch: f64,
    tract: f64,
    breath: f64,
}

impl Voice {
    fn speak(&self, length: usize, draws: &mut Stream) -> (Vec<f32>, Vec<Segment>) {
        let mut segments: Vec<Segment> = Vec::new();
        let mut end = 0;
        while end < length {
            let start = end;
            end += (draws.uniform(0.06, 0.16) * f64::from(RATE)) as usize;
            let before = segments.last().and_then(|s| s.phone);
            let phone = loop {
                let phone = draws.below(PHONES as u64) as u32;
                if Some(phone) != before {
                    break phone;
                }
            };
            segments.push(Segment { start, end: end.min(length), phone: Some(phone) });
        }
        let mut samples = Vec::with_capacity(length);
        let mut filters = [Resonance::default(); 3];
        let mut noise = Resonance::default();
        let (mut phase, mut gain) = (0f64, [0f64; 2]);
        let mut formants = VOWELS[2];
        let drift = draws.uniform(-0.1, 0.1);
        for segment in &segments {
            let phone = segment.phone.unwrap_or(SILENCE) as usize;
            let wanted = match phone {
                p if p < VOWELS.len() => ([1.0, self.breath], VOWELS[p]),
                p if p < SILENCE as usize => ([0.0, 0.8], formants),
                _ => ([0.0, 0.002], formants),
            };
            let band = FRICATIVES.get(phone.wrapping_sub(VOWELS.len())).copied().unwrap_or(3500.0);
            for i in segment.start..segment.end {
                // Articulators move within some 10 ms.
                for (value, goal) in formants.iter_mut().zip(wanted.1) {
                    *value += (goal - *value) * 0.006;
                }
                for (value, goal) in gain.iter_mut().zip(wanted.0) {
                    *value += (goal - *value) * 0.01;
                }
                let pitch = self.pitch * (1.0 + drift * (i as f64 / length as f64 - 0.5));
                phase += pitch / f64::from(RATE);
                let pulse = if phase >= 1.0 {
                    phase -= 1.0;
                    1.0
                } else {
                    0.0
                };
                let hiss = draws.normal();
                let source = gain[0] * pulse + 0.02 * gain[1] * hiss;
                let mut voiced = source;
                for (filter, formant) in filters.iter_mut().zip(formants) {
                    voiced = filter.pass(voiced, formant * self.tract, 0.06 * formant + 40.0);
                }
                let rustle = noise.pass(gain[1] * hiss * 0.1, band * self.tract, 900.0);
                samples.push((0.25 * voiced + 0.25 * rustle) as f32);
            }
        }
        (samples, segments)
    }
}

/// A resonance of two poles with gain 1 at zero frequency's scale of its own.
#[derive(Debug, Clone, Copy, Default)]
struct Resonance {
    last: [f64; 2],
}

impl Resonance {
    /// One sample through a resonance at `frequency` Hz, `width` Hz wide.
    fn pass(&mut self, x: f64, frequency: f64, width: f64) -> f64 {
        let turn = std::f64::consts::TAU / f64::from(RATE);
        let radius = (-0.5 * turn * width).exp();
        let b = 2.0 * radius * (turn * frequency.min(7600.0)).cos();
        let c = -radius * radius;
        let y = (1.0 - b - c) * x + b * self.last[0] + c * self.last[1];
        self.last = [y, self.last[0]];
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contrastive_core::data::Source;

    #[test]
    fn voices_are_sound_and_the_same_again() -> Result<()> {
        let set = voices(3, 2, 1.0, 5)?;
        assert_eq!((set.len(), set.speakers().len()), (6, 3));
        assert_eq!(set.fingerprint(), voices(3, 2, 1.0, 5)?.fingerprint());
        assert_ne!(set.fingerprint(), voices(3, 2, 1.0, 6)?.fingerprint());
        for recording in set.all() {
            let square = recording.samples.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let level = (square / recording.samples.len() as f64).sqrt();
            let peak = recording.samples.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(level > 3e-3 && peak < 1.0, "{}: level {level}, peak {peak}", recording.name);
            assert_eq!(recording.phones.last().map(|s| s.end), Some(recording.samples.len()));
            assert!(recording.phones.windows(2).all(|s| s[0].end == s[1].start && s[0].phone != s[1].phone));
        }
        Ok(())
    }
}
