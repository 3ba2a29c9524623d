//! Collections cut in time, and divided as published experiments divide them.

use std::ops::Range;

use contrastive_core::data::Source;
use contrastive_core::{Error, Result};

use super::probes::{Parts, split_speakers};
use super::recordings::{Recording, Recordings, Segment};

/// Samples to a multiple of which cuts are made: 10 ms, the hop of the paper's encoder.
const HOP: usize = 160;

/// The samples `range` of a recording, with the phones that lie in it.
fn cut(recording: &Recording, range: Range<usize>) -> Recording {
    let inside = |segment: &Segment| segment.end > range.start && segment.start < range.end;
    let moved = |segment: &Segment| Segment {
        start: segment.start.max(range.start) - range.start,
        end: segment.end.min(range.end) - range.start,
        phone: segment.phone,
    };
    Recording {
        name: format!("{}[{}..{}]", recording.name, range.start, range.end),
        samples: recording.samples[range.clone()].to_vec(),
        speaker: recording.speaker,
        word: recording.word,
        phones: recording.phones.iter().filter(|s| inside(s)).map(moved).collect(),
    }
}

/// The first `share` of every recording for training, the rest for the test: for speakers with one recording each. What
/// a recording is recognised by beside its voice (its room, its microphone) is in both parts.
///
/// # Errors
/// A share that is not between 0 and 1; a recording of which a part would be shorter than a frame.
pub fn split_time(recordings: &Recordings, share: f64) -> Result<Parts> {
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::config("share", format!("must lie between 0 and 1, is {share}")));
    }
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for recording in recordings.all() {
        let all = recording.samples.len();
        let at = (all as f64 * share) as usize / HOP * HOP;
        if at < HOP || all - at < HOP {
            let reason = format!("{all} samples are too few to be divided");
            return Err(Error::data(&recording.name, reason));
        }
        train.push(cut(recording, 0..at));
        test.push(cut(recording, at..all));
    }
    let part = |all| Recordings::new(recordings.name(), all, recordings.speakers().to_vec());
    Ok(Parts { train: part(train)?, test: part(test)? })
}

/// Every recording in pieces of `samples`, one behind the other, so that an epoch sees as much of a long recording as of
/// many short ones. What remains at an end is left out, a recording shorter than a piece stays whole.
///
/// # Errors
/// Pieces without samples.
pub fn pieces(recordings: &Recordings, samples: usize) -> Result<Recordings> {
    if samples == 0 {
        return Err(Error::config("samples", "must be at least 1"));
    }
    let of = |recording: &Recording| -> Vec<Recording> {
        match recording.samples.len() / samples {
            0 => vec![recording.clone()],
            count => (0..count).map(|i| cut(recording, i * samples..(i + 1) * samples)).collect(),
        }
    };
    let all = recordings.all().iter().flat_map(|recording| of(recording)).collect();
    Recordings::new(recordings.name(), all, recordings.speakers().to_vec())
}

/// TIMIT by speaker: those of dialect regions 7 and 8 for the test, without the two sentences that everybody reads (`sa1`
/// and `sa2`) in either part, as is usual for phones.
///
/// # Errors
/// A part that is empty: a collection in another layout.
pub fn timit(recordings: &Recordings) -> Result<Parts> {
    let parts = split_speakers(recordings, |name| name.starts_with("dr7") || name.starts_with("dr8"))?;
    let common =
        |name: &str| name.rsplit('/').next().is_some_and(|file| file.to_lowercase().starts_with("sa"));
    let without = |part: &Recordings| part.filtered(|recording| !common(&recording.name));
    Ok(Parts { train: without(&parts.train)?, test: without(&parts.test)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(samples: usize, speaker: u32, name: &str) -> Recording {
        let segment = |start, end, phone| Segment { start, end, phone };
        Recording {
            name: name.to_string(),
            samples: (0..samples).map(|i| i as f32).collect(),
            speaker,
            word: None,
            phones: vec![segment(0, 700, Some(1)), segment(700, 900, None), segment(900, samples, Some(2))],
        }
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("s{i}")).collect()
    }

    #[test]
    fn time_is_divided_and_phones_move_along() -> Result<()> {
        let all = Recordings::new("x", vec![ramp(1000, 0, "a"), ramp(2000, 1, "b")], names(2))?;
        let Parts { train, test } = split_time(&all, 0.75)?;
        let lengths = |r: &Recordings| r.all().iter().map(|r| r.samples.len()).collect::<Vec<_>>();
        assert_eq!((lengths(&train), lengths(&test)), (vec![640, 1440], vec![360, 560]));
        assert_eq!(test.all()[0].samples[0], 640.0);
        assert_eq!((test.all()[1].name.as_str(), test.all()[1].speaker), ("b[1440..2000]", 1));
        for (part, offset) in [(&train, [0, 0]), (&test, [640, 1440])] {
            for ((cut, whole), offset) in part.all().iter().zip(all.all()).zip(offset) {
                for sample in 0..cut.samples.len() {
                    assert_eq!(cut.phone(sample), whole.phone(offset + sample));
                }
            }
        }
        assert!(split_time(&all, 1.0).is_err() && split_time(&all, f64::NAN).is_err());
        let short = Recordings::new("x", vec![ramp(200, 0, "short")], names(1))?;
        assert!(split_time(&short, 0.5).is_err_and(|e| e.to_string().contains("short")));
        Ok(())
    }

    #[test]
    fn pieces_follow_each_other() -> Result<()> {
        let all = Recordings::new("x", vec![ramp(1000, 0, "a"), ramp(299, 1, "b")], names(2))?;
        let cut = pieces(&all, 400)?;
        let begin: Vec<_> = cut.all().iter().map(|r| (r.samples[0], r.samples.len(), r.speaker)).collect();
        assert_eq!(begin, [(0.0, 400, 0), (400.0, 400, 0), (0.0, 299, 1)]);
        assert_eq!(cut.all()[1].phone(550 - 400), Some(1));
        assert!(pieces(&all, 0).is_err());
        Ok(())
    }

    #[test]
    fn timit_is_divided_by_speaker() -> Result<()> {
        let files = [(0, "dr1-f/sa1.wav"), (0, "dr1-f/si9.wav"), (1, "dr7-m/SA2.WAV"), (1, "dr7-m/sx3.wav")];
        let all = files.map(|(speaker, name)| ramp(1000, speaker, name)).to_vec();
        let all = Recordings::new("x", all, vec!["dr1-f".to_string(), "dr7-m".to_string()])?;
        let Parts { train, test } = timit(&all)?;
        assert_eq!((train.all().len(), test.all().len()), (1, 1));
        assert_eq!((train.all()[0].name.as_str(), test.all()[0].name.as_str()), (files[1].1, files[3].1));
        Ok(())
    }
}
