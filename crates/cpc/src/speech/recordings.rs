//! Recordings in memory.

use std::sync::Arc;

use contrastive_core::data::Source;
use contrastive_core::{Error, Result};

/// A stretch of a recording with one phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its first sample.
    pub start: usize,
    /// The sample behind its last.
    pub end: usize,
    /// The phone's class, where the stretch has one that counts.
    pub phone: Option<u32>,
}

/// A recording at 16 kHz, one channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// What reports call it: a path below the collection's folder.
    pub name: String,
    /// The samples, in −1..1.
    pub samples: Vec<f32>,
    /// The speaker, from 0.
    pub speaker: u32,
    /// What is said, where the collection has few things to say (a digit).
    pub word: Option<u32>,
    /// The phones in order of time; empty where they are not known.
    pub phones: Vec<Segment>,
}

impl Recording {
    /// The class of the phone at a sample.
    pub fn phone(&self, sample: usize) -> Option<u32> {
        let place = self.phones.partition_point(|segment| segment.end <= sample);
        self.phones.get(place).filter(|segment| segment.start <= sample)?.phone
    }
}

/// A collection of recordings, with names for its speakers.
///
/// As a [`Source`] its labels are the speakers. The fingerprint is BLAKE3 over every recording's name, speaker, word,
/// phones and samples.
#[derive(Debug, Clone)]
pub struct Recordings {
    name: String,
    all: Vec<Arc<Recording>>,
    speakers: Vec<String>,
    fingerprint: String,
}

impl Recordings {
    /// A collection.
    ///
    /// # Errors
    /// [`Error::Data`] where it is empty or a speaker has no name.
    pub fn new(name: impl Into<String>, all: Vec<Recording>, speakers: Vec<String>) -> Result<Self> {
        let all = all.into_iter().map(Arc::new).collect();
        Self::from_shared(name.into(), all, speakers)
    }

    fn from_shared(name: String, all: Vec<Arc<Recording>>, speakers: Vec<String>) -> Result<Self> {
        if all.is_empty() {
            return Err(Error::data(name, "the collection holds no recordings"));
        }
        if let Some(nameless) = all.iter().find(|r| r.speaker as usize >= speakers.len()) {
            let reason = format!("speaker {} is out of range for {}", nameless.speaker, speakers.len());
            return Err(Error::data(format!("{name}: {}", nameless.name), reason));
        }
        let fingerprint = fingerprint(&all, &speakers);
        Ok(Self { name, all, speakers, fingerprint })
    }

    /// The recordings that `keep` says yes to, with the same speakers' numbers.
    ///
    /// # Errors
    /// [`Error::Data`] where none is kept.
    pub fn filtered(&self, keep: impl Fn(&Recording) -> bool) -> Result<Self> {
        let kept = self.all.iter().filter(|recording| keep(recording)).cloned().collect();
        Self::from_shared(self.name.clone(), kept, self.speakers.clone())
    }

    /// The recordings, in order.
    pub fn all(&self) -> &[Arc<Recording>] {
        &self.all
    }

    /// The names of the speakers.
    pub fn speakers(&self) -> &[String] {
        &self.speakers
    }

    /// The speaker of every recording.
    pub fn speaker_of_each(&self) -> Vec<u32> {
        self.all.iter().map(|recording| recording.speaker).collect()
    }

    /// Seconds of sound.
    pub fn seconds(&self) -> f64 {
        let samples: usize = self.all.iter().map(|recording| recording.samples.len()).sum();
        samples as f64 / f64::from(super::config::RATE)
    }
}

impl Source for Recordings {
    type Sample = Arc<Recording>;

    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.all.len()
    }

    fn sample(&self, index: usize) -> Result<Arc<Recording>> {
        let missing =
            || Error::data(&self.name, format!("recording {index} is out of range for {}", self.all.len()));
        self.all.get(index).cloned().ok_or_else(missing)
    }

    fn sample_name(&self, index: usize) -> String {
        self.all.get(index).map_or_else(|| format!("{}[{index}]", self.name), |r| r.name.clone())
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.all.get(index).map(|recording| recording.speaker)
    }

    fn classes(&self) -> usize {
        self.speakers.len()
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

fn fingerprint(all: &[Arc<Recording>], speakers: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    let text = |hasher: &mut blake3::Hasher, text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    hasher.update(b"contrastive recordings 1");
    speakers.iter().for_each(|speaker| text(&mut hasher, speaker));
    for recording in all {
        text(&mut hasher, &recording.name);
        let word = recording.word.map_or(u64::MAX, u64::from);
        for number in [u64::from(recording.speaker), word, recording.samples.len() as u64] {
            hasher.update(&number.to_le_bytes());
        }
        for segment in &recording.phones {
            let phone = segment.phone.map_or(u64::MAX, u64::from);
            for number in [segment.start as u64, segment.end as u64, phone] {
                hasher.update(&number.to_le_bytes());
            }
        }
        let bytes: Vec<u8> = recording.samples.iter().flat_map(|x| x.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    hasher.finalize().to_hex()[..32].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(speaker: u32) -> Recording {
        let segment = |start, end, phone| Segment { start, end, phone };
        Recording {
            name: format!("r{speaker}"),
            samples: vec![0.0; 100],
            speaker,
            word: None,
            phones: vec![segment(0, 10, Some(3)), segment(10, 20, None), segment(30, 40, Some(5))],
        }
    }

    #[test]
    fn phones_are_found_by_sample() {
        let r = recording(0);
        let at = [0, 9, 10, 19, 25, 30, 39, 40, 1000].map(|sample| r.phone(sample));
        assert_eq!(at, [Some(3), Some(3), None, None, None, Some(5), Some(5), None, None]);
    }

    #[test]
    fn collections_are_checked_and_told_apart() -> Result<()> {
        let names = vec!["a".to_string(), "b".to_string()];
        let both = Recordings::new("x", vec![recording(0), recording(1)], names.clone())?;
        assert_eq!((both.classes(), both.label(1), both.speaker_of_each()), (2, Some(1), vec![0, 1]));
        let one = both.filtered(|r| r.speaker == 1)?;
        assert_eq!((one.len(), one.sample_name(0)), (1, "r1".to_string()));
        assert_ne!(one.fingerprint(), both.fingerprint());
        assert!(
            both.filtered(|_| false).is_err() && Recordings::new("x", Vec::new(), names.clone()).is_err()
        );
        let error = Recordings::new("x", vec![recording(2)], names).expect_err("refused").to_string();
        assert!(error.contains("r2") && error.contains("out of range for 2"), "{error}");
        Ok(())
    }
}
