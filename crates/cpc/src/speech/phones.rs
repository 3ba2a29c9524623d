//! TIMIT's 61 phones folded to fewer classes, and its alignment files.

use std::path::Path;

use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::recordings::Segment;

/// A way to fold TIMIT's phones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Folding {
    /// The 39 classes of Lee & Hon (1989), the usual ones on TIMIT: closures and pauses are silence, the glottal stop `q`
    /// does not count.
    LeeHon39,
    /// 41 classes like those that the paper has on LibriSpeech: the 39 phones of the CMU dictionary, silence, and one for
    /// everything else. A closure belongs to its stop (or to the affricate behind it), a flap is a `d`, syllabic
    /// consonants are plain ones, reduced vowels full ones; the glottal stop is the class for everything else.
    Cmu41,
}

const LEE_HON: [&str; 39] = [
    "aa", "ae", "ah", "aw", "ay", "b", "ch", "d", "dh", "dx", "eh", "er", "ey", "f", "g", "hh", "ih", "iy",
    "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "sil", "t", "th", "uh", "uw", "v", "w",
    "y", "z",
];

const CMU: [&str; 41] = [
    "aa", "ae", "ah", "ao", "aw", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih", "iy",
    "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y",
    "z", "zh", "sil", "spn",
];

/// The phones that both foldings take for others.
const COMMON: [(&str, &str); 14] = [
    ("ax", "ah"),
    ("ax-h", "ah"),
    ("axr", "er"),
    ("hv", "hh"),
    ("ix", "ih"),
    ("el", "l"),
    ("em", "m"),
    ("en", "n"),
    ("nx", "n"),
    ("eng", "ng"),
    ("ux", "uw"),
    ("h#", "sil"),
    ("pau", "sil"),
    ("epi", "sil"),
];

impl Folding {
    /// The names of the classes.
    pub fn classes(self) -> &'static [&'static str] {
        match self {
            Self::LeeHon39 => &LEE_HON,
            Self::Cmu41 => &CMU,
        }
    }

    /// The class of a phone with the one behind it; `None` for a phone that does not count.
    ///
    /// # Errors
    /// [`Error::Data`] for none of TIMIT's phones.
    pub fn class(self, phone: &str, next: Option<&str>) -> Result<Option<u32>> {
        let common = COMMON.iter().find(|(from, _)| *from == phone).map(|(_, to)| *to);
        let closure =
            phone.strip_suffix("cl").filter(|stop| matches!(*stop, "b" | "d" | "g" | "p" | "t" | "k"));
        let name = match (self, phone, closure, next) {
            (Self::LeeHon39, "q", ..) => return Ok(None),
            (Self::LeeHon39, "ao", ..) => "aa",
            (Self::LeeHon39, "zh", ..) => "sh",
            (Self::LeeHon39, _, Some(_), _) => "sil",
            (Self::Cmu41, "q", ..) => "spn",
            (Self::Cmu41, "dx", ..) => "d",
            (Self::Cmu41, "tcl", _, Some("ch")) => "ch",
            (Self::Cmu41, "dcl", _, Some("jh")) => "jh",
            (Self::Cmu41, _, Some(stop), _) => stop,
            _ => common.unwrap_or(phone),
        };
        match self.classes().iter().position(|class| *class == name) {
            Some(class) => Ok(Some(class as u32)),
            None => Err(Error::data("TIMIT phones", format!("`{phone}` is none"))),
        }
    }

    /// The segments of an alignment in TIMIT's form: one line `start end phone` each, in samples.
    ///
    /// # Errors
    /// [`Error::Format`] naming the line that is not one, overlaps the one before or has an unknown phone.
    pub fn segments(self, text: &str, path: &Path) -> Result<Vec<Segment>> {
        let lines: Vec<(usize, &str)> = text
            .lines()
            .enumerate()
            .map(|(i, line)| (i + 1, line.trim()))
            .filter(|(_, l)| !l.is_empty())
            .collect();
        let mut parsed = Vec::with_capacity(lines.len());
        for (number, line) in lines {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let &[start, end, phone] = fields.as_slice() else {
                return Err(Error::format(path, format!("line {number}: expected `start end phone`")));
            };
            let (Ok(start), Ok(end)) = (start.parse::<usize>(), end.parse::<usize>()) else {
                return Err(Error::format(
                    path,
                    format!("line {number}: `{start}` and `{end}` are no sample numbers"),
                ));
            };
            let before = parsed.last().map_or(0, |&(_, _, end, _)| end);
            if start < before || end < start {
                return Err(Error::format(path, format!("line {number}: {start} to {end} behind {before}")));
            }
            parsed.push((number, start, end, phone));
        }
        let mut segments = Vec::with_capacity(parsed.len());
        for (i, &(number, start, end, phone)) in parsed.iter().enumerate() {
            let next = parsed.get(i + 1).map(|&(_, _, _, phone)| phone);
            let class = self.class(phone, next);
            let phone = class.map_err(|error| Error::format(path, format!("line {number}: {error}")))?;
            segments.push(Segment { start, end, phone });
        }
        Ok(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMIT: &str = "aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh \
                         hv ih ix iy jh k kcl l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh";

    #[test]
    fn all_of_timits_phones_fold() -> Result<()> {
        let phones: Vec<&str> = TIMIT.split_whitespace().collect();
        assert_eq!(phones.len(), 61);
        for folding in [Folding::LeeHon39, Folding::Cmu41] {
            let mut seen = vec![false; folding.classes().len()];
            for phone in &phones {
                if let Some(class) = folding.class(phone, None)? {
                    seen[class as usize] = true;
                }
            }
            assert!(seen.iter().all(|seen| *seen), "{folding:?}");
            assert!(folding.class("xx", None).is_err());
        }
        let name = |folding: Folding, phone, next| {
            folding.class(phone, next).map(|class| class.map(|class| folding.classes()[class as usize]))
        };
        assert_eq!(name(Folding::LeeHon39, "tcl", Some("ch"))?, Some("sil"));
        assert_eq!(name(Folding::LeeHon39, "q", None)?, None);
        assert_eq!(name(Folding::LeeHon39, "ix", None)?, Some("ih"));
        assert_eq!(name(Folding::Cmu41, "tcl", Some("ch"))?, Some("ch"));
        assert_eq!(name(Folding::Cmu41, "tcl", Some("t"))?, Some("t"));
        assert_eq!(name(Folding::Cmu41, "ao", None)?, Some("ao"));
        assert_eq!(name(Folding::Cmu41, "q", None)?, Some("spn"));
        Ok(())
    }

    #[test]
    fn alignments_are_read_and_faults_named() -> Result<()> {
        let path = Path::new("sa1.phn");
        let segments = Folding::LeeHon39.segments("0 10 h#\n10 14 sh\n\n14 20 q\n", path)?;
        assert_eq!(segments.len(), 3);
        assert_eq!(segments[1], Segment { start: 10, end: 14, phone: Some(29) });
        assert_eq!(segments[2].phone, None);
        for (text, expected) in [
            ("0 10 h#\n10 14", "line 2: expected"),
            ("0 x h#", "line 1: `0` and `x`"),
            ("0 10 h#\n5 14 sh", "line 2: 5 to 14 behind 10"),
            ("0 10 ??", "line 1: TIMIT phones: `??` is none"),
        ] {
            let error = Folding::Cmu41.segments(text, path).expect_err("refused").to_string();
            assert!(error.starts_with("sa1.phn: ") && error.contains(expected), "{error}");
        }
        Ok(())
    }
}
