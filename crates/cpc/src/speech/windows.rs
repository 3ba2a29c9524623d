//! From recordings to windows.

use std::sync::Arc;

use contrastive_core::data::{Array, Transform};
use contrastive_core::rng::Key;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::config::EncoderConfig;
use super::recordings::Recording;

/// What is done to the scale of samples, which lie in −1..1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Scale {
    /// Nothing.
    AsIs {},
    /// The same mean and deviation for all (Greedy InfoMax on LibriSpeech: −0.00068 and 0.0630).
    Fixed {
        /// Subtracted first.
        mean: f64,
        /// Divided by.
        deviation: f64,
    },
    /// Each recording's own mean and deviation: for collections recorded at different levels.
    PerRecording {},
}

impl Scale {
    /// The mean to subtract and the factor behind it.
    fn values(self, samples: &[f32]) -> (f32, f32) {
        match self {
            Self::AsIs {} => (0.0, 1.0),
            Self::Fixed { mean, deviation } => (mean as f32, (1.0 / deviation) as f32),
            Self::PerRecording {} => {
                let n = samples.len().max(1) as f64;
                let mean = samples.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
                let square = samples.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
                (mean as f32, (1.0 / square.sqrt().max(1e-5)) as f32)
            }
        }
    }

    /// The samples of a whole recording, scaled.
    pub fn apply(self, samples: &[f32]) -> Vec<f32> {
        let (mean, factor) = self.values(samples);
        samples.iter().map(|x| (x - mean) * factor).collect()
    }
}

/// How recordings become windows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// Samples of a window.
    pub samples: usize,
    /// The scale of samples.
    pub scale: Scale,
    /// Whether a batch has windows of one speaker only.
    pub one_speaker_batches: bool,
}

impl WindowConfig {
    /// Checks the ranges. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self, at: &str, encoder: &EncoderConfig) -> Result<()> {
        if encoder.frames(self.samples) < 2 {
            let reason = format!("{} samples are fewer than two frames", self.samples);
            return Err(Error::config(format!("{at}.samples"), reason));
        }
        match self.scale {
            Scale::Fixed { mean, deviation }
                if !(mean.is_finite() && deviation > 0.0 && deviation.is_finite()) =>
            {
                let reason =
                    format!("mean {mean} and deviation {deviation}: must be finite, the latter above 0");
                Err(Error::config(format!("{at}.scale"), reason))
            }
            _ => Ok(()),
        }
    }
}

/// A window of each recording at a random place that is a whole number of hops from its beginning: one view `[1, S]`. A
/// recording shorter than a window is followed by silence (zeros).
#[derive(Debug, Clone)]
pub struct Windows {
    config: WindowConfig,
    hop: usize,
    labels: Option<FrameLabels>,
}

/// What each frame of a window is labelled with, for supervised training.
#[derive(Debug, Clone)]
pub struct FrameLabels {
    /// The encoder, which says where frames lie.
    pub encoder: EncoderConfig,
    /// The label of a sample of a recording, where it has one.
    pub of: fn(&Recording, usize) -> Option<u32>,
}

impl Windows {
    /// Windows for an encoder.
    pub fn new(config: WindowConfig, encoder: &EncoderConfig) -> Self {
        Self { config, hop: encoder.hop(), labels: None }
    }

    /// The same with a second view: the label of each frame `[T]`, −1 where there is none.
    #[must_use]
    pub fn labelled(self, labels: FrameLabels) -> Self {
        Self { labels: Some(labels), ..self }
    }

    /// Where the window of this key begins.
    fn start(&self, samples: usize, key: Key) -> usize {
        let room = samples.saturating_sub(self.config.samples) / self.hop;
        key.view(0).stream().below(room as u64 + 1) as usize * self.hop
    }
}

impl Transform<Arc<Recording>> for Windows {
    fn apply(&self, recording: &Arc<Recording>, key: Key) -> Result<Vec<Array>> {
        let all = &recording.samples;
        if all.is_empty() {
            return Err(Error::data(&recording.name, "no samples"));
        }
        let start = self.start(all.len(), key);
        let part = &all[start..all.len().min(start + self.config.samples)];
        let (mean, factor) = self.config.scale.values(all);
        let mut data: Vec<f32> = part.iter().map(|x| (x - mean) * factor).collect();
        data.resize(self.config.samples, 0.0);
        let mut views = vec![Array { shape: vec![1, self.config.samples], data }];
        if let Some(FrameLabels { encoder, of }) = &self.labels {
            let label =
                |t: usize| of(recording, start + encoder.centre(t)).map_or(-1.0, |label| label as f32);
            let data: Vec<f32> = (0..encoder.frames(self.config.samples)).map(label).collect();
            views.push(Array { shape: vec![data.len()], data });
        }
        Ok(views)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contrastive_core::rng::Purpose;

    fn config(samples: usize, scale: Scale) -> WindowConfig {
        WindowConfig { samples, scale, one_speaker_batches: false }
    }

    fn recording(samples: usize) -> Arc<Recording> {
        let samples = (0..samples).map(|i| i as f32).collect();
        Arc::new(Recording { name: "ramp".to_string(), samples, speaker: 0, word: None, phones: Vec::new() })
    }

    #[test]
    fn windows_begin_at_whole_hops_and_end_within() -> Result<()> {
        let encoder = EncoderConfig::paper(4);
        let windows = Windows::new(config(800, Scale::AsIs {}), &encoder);
        let key = Key::new(0, Purpose::Augment);
        let mut starts = std::collections::BTreeSet::new();
        for sample in 0..200 {
            let [view] = &windows.apply(&recording(1300), key.sample(sample))?[..] else {
                panic!("one view")
            };
            assert_eq!((view.shape.as_slice(), view.data.len()), (&[1usize, 800][..], 800));
            assert_eq!(view.data[799], view.data[0] + 799.0);
            starts.insert(view.data[0] as u32);
        }
        assert_eq!(starts.into_iter().collect::<Vec<_>>(), [0, 160, 320, 480]);
        let short = windows.apply(&recording(500), key)?.remove(0).data;
        assert_eq!((short[499], short[500], short.len()), (499.0, 0.0, 800));
        assert!(windows.apply(&recording(0), key).is_err());
        Ok(())
    }

    #[test]
    fn scales_are_those_of_the_whole_recording() {
        let samples = [1.0f32, 3.0, 5.0, 3.0];
        let scaled = Scale::PerRecording {}.apply(&samples);
        let mean: f32 = scaled.iter().sum::<f32>() / 4.0;
        let square: f32 = scaled.iter().map(|x| x * x).sum::<f32>() / 4.0;
        assert!(mean.abs() < 1e-6 && (square - 1.0).abs() < 1e-5);
        assert_eq!(Scale::Fixed { mean: 1.0, deviation: 0.5 }.apply(&samples), [0.0, 4.0, 8.0, 4.0]);
        assert_eq!(Scale::AsIs {}.apply(&samples), samples);
        assert!(Scale::PerRecording {}.apply(&[2.0; 3]).iter().all(|x| *x == 0.0));
    }

    #[test]
    fn frames_are_labelled_at_their_middle() -> Result<()> {
        let encoder = EncoderConfig::paper(4);
        let of = |_: &Recording, sample: usize| (sample >= 400).then_some(sample as u32 / 400);
        let windows = Windows::new(config(800, Scale::AsIs {}), &encoder)
            .labelled(FrameLabels { encoder: encoder.clone(), of });
        let views = windows.apply(&recording(800), Key::new(0, Purpose::Augment))?;
        assert_eq!(views[1].data, [-1.0, -1.0, -1.0, 1.0, 1.0]);
        Ok(())
    }
}
