//! Speech that comes with the crate.

use contrastive_core::{Error, Result};

use super::{flac, resample};
use crate::speech::{RATE, Recording, Recordings};

/// Speaker, name and content of each file.
const UTTERANCES: [(&str, &str, &[u8]); 6] = [
    ("2911", "2911-12359-0007", include_bytes!("../../data/librispeech/2911-12359-0007.flac")),
    ("4051", "4051-11218-0044", include_bytes!("../../data/librispeech/4051-11218-0044.flac")),
    ("4397", "4397-15668-0003", include_bytes!("../../data/librispeech/4397-15668-0003.flac")),
    ("5393", "5393-19218-0024", include_bytes!("../../data/librispeech/5393-19218-0024.flac")),
    ("5678", "5678-43303-0032", include_bytes!("../../data/librispeech/5678-43303-0032.flac")),
    ("6476", "6476-57446-0019", include_bytes!("../../data/librispeech/6476-57446-0019.flac")),
];

/// Six utterances of LibriSpeech, one of each of six speakers, 71.6 s in all (CC BY 4.0; V. Panayotov, G. Chen, D. Povey,
/// S. Khudanpur 2015). They have no phone labels here.
///
/// # Errors
/// None that the files that come with the crate can cause.
pub fn librispeech() -> Result<Recordings> {
    let mut all = Vec::with_capacity(UTTERANCES.len());
    for (speaker, (_, name, bytes)) in UTTERANCES.into_iter().enumerate() {
        let sound = flac::decode(bytes.to_vec()).map_err(|reason| Error::data(name, reason))?;
        let samples = resample(&sound.samples, sound.rate, RATE)?;
        all.push(Recording {
            name: name.to_string(),
            samples,
            speaker: speaker as u32,
            word: None,
            phones: Vec::new(),
        });
    }
    Recordings::new("librispeech-6", all, UTTERANCES.map(|(speaker, ..)| speaker.to_string()).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_speaker_has_an_utterance() -> Result<()> {
        let recordings = librispeech()?;
        assert_eq!((recordings.all().len(), recordings.speakers().len()), (6, 6));
        assert_eq!(recordings.all()[0].samples.len(), 81_520);
        assert!((recordings.seconds() - 71.67).abs() < 0.01, "{}", recordings.seconds());
        for (i, recording) in recordings.all().iter().enumerate() {
            assert_eq!(recording.speaker as usize, i);
            assert!(recording.name.starts_with(&recordings.speakers()[i]));
            let loudest = recording.samples.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!((0.1..=1.0).contains(&loudest), "{}: {loudest}", recording.name);
        }
        Ok(())
    }
}
