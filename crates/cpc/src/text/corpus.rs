//! Sentences in their order.
//!
//! A corpus is plain text: one sentence a line; empty lines (between paragraphs) say nothing; a line that begins with
//! `===` begins another document, across whose edge nothing is predicted.

use std::ops::Range;
use std::path::Path;

use contrastive_core::data::Source;
use contrastive_core::{Error, Result};

use super::vocabulary::Vocabulary;
use super::windows::WindowConfig;

/// What a line that begins a document begins with.
const DOCUMENT: &str = "===";

/// The text of a corpus.
#[derive(Debug, Clone)]
pub struct Text {
    name: String,
    content: String,
}

impl Text {
    /// A text under a name for reports.
    pub fn new(name: impl Into<String>, content: impl Into<String>) -> Self {
        Self { name: name.into(), content: content.into() }
    }

    /// Reads a file; the name is the file's without its ending.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a compressed file or one that is not UTF-8.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Err(Error::format(path, "is compressed by gzip: unpack it first"));
        }
        let content = String::from_utf8(bytes)
            .map_err(|error| Error::format(path, format!("is not UTF-8: {}", error.utf8_error())))?;
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok(Self { name, content })
    }

    /// The slice of prose that comes with this crate: the first chapters of *Pride and Prejudice* (Jane Austen, 1813;
    /// public domain), from Project Gutenberg's text 1342.
    pub fn prose() -> Self {
        Self::new("prose", include_str!("../../data/prose.txt"))
    }

    /// The name for reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All sentences.
    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        self.lines().filter(|line| !line.starts_with(DOCUMENT))
    }

    /// Sentences that somebody in the text says (`true`) and sentences of the narrator (`false`), without quotation marks.
    /// Straight double ones (`"`) enclose speech, also over several lines of a paragraph; sentences that are only in part
    /// speech, and those that are nothing but marks, are left out.
    pub fn dialogue(&self) -> Vec<(String, bool)> {
        const MARK: char = '"';
        let mut speech = false;
        let mut sentences = Vec::new();
        for line in self.content.lines().map(str::trim) {
            // A paragraph that speech goes on in begins with a mark of its own.
            if line.is_empty() || line.starts_with(DOCUMENT) {
                speech = false;
                continue;
            }
            let (mut said, mut told, mut inside) = (0, 0, speech);
            for character in line.chars() {
                match character {
                    MARK => inside = !inside,
                    _ if character.is_alphanumeric() && inside => said += 1,
                    _ if character.is_alphanumeric() => told += 1,
                    _ => {}
                }
            }
            speech = inside;
            if (said == 0) != (told == 0) {
                sentences.push((line.replace(MARK, "").trim().to_string(), said > 0));
            }
        }
        sentences
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.content.lines().map(str::trim).filter(|line| !line.is_empty())
    }
}

/// Sentences as numbers of words, and the passages that windows are taken from.
///
/// Passage `i` of a document begins at its sentence `i L` for windows of L sentences and has the 2 L − 1 sentences that
/// windows beginning at `i L` to `i L + L − 1` see, fewer at the document's end. Documents shorter than a window are left
/// out.
#[derive(Debug, Clone)]
pub struct Corpus {
    name: String,
    numbers: Vec<u32>,
    /// Where each sentence ends in `numbers`.
    ends: Vec<usize>,
    passages: Vec<Range<usize>>,
    fingerprint: String,
}

impl Corpus {
    /// The sentences of a text.
    ///
    /// # Errors
    /// [`Error::Data`] where no document has the sentences of a window.
    pub fn new(text: &Text, vocabulary: &Vocabulary, windows: &WindowConfig) -> Result<Self> {
        let (mut numbers, mut ends) = (Vec::new(), Vec::new());
        let mut documents: Vec<usize> = Vec::new();
        for line in text.lines() {
            if line.starts_with(DOCUMENT) {
                documents.push(ends.len());
            } else {
                numbers.extend(vocabulary.numbers(line));
                ends.push(numbers.len());
            }
        }
        documents.push(ends.len());
        let length = windows.sentences.max(1);
        let (mut first, mut passages) = (0, Vec::new());
        for end in documents {
            for start in (first..end).step_by(length).filter(|start| start + length <= end) {
                passages.push(start..end.min(start + 2 * length - 1));
            }
            first = end;
        }
        if passages.is_empty() {
            let reason = format!("no document has the {length} sentences of a window");
            return Err(Error::data(&text.name, reason));
        }
        let fingerprint = fingerprint(&numbers, &ends, &passages, vocabulary);
        Ok(Self { name: text.name.clone(), numbers, ends, passages, fingerprint })
    }

    /// The numbers of all sentences and words.
    pub fn size(&self) -> (usize, usize) {
        (self.ends.len(), self.numbers.len())
    }

    fn sentence(&self, i: usize) -> &[u32] {
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.numbers[start..self.ends[i]]
    }
}

/// Consecutive sentences, each the numbers of its words.
pub type Passage = Vec<Vec<u32>>;

impl Source for Corpus {
    type Sample = Passage;

    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.passages.len()
    }

    fn sample(&self, index: usize) -> Result<Passage> {
        match self.passages.get(index) {
            Some(range) => Ok(range.clone().map(|i| self.sentence(i).to_vec()).collect()),
            None => {
                let reason = format!("passage {index} is out of range for {}", self.passages.len());
                Err(Error::data(&self.name, reason))
            }
        }
    }

    fn label(&self, _index: usize) -> Option<u32> {
        None
    }

    fn classes(&self) -> usize {
        0
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

fn fingerprint(
    numbers: &[u32],
    ends: &[usize],
    passages: &[Range<usize>],
    vocabulary: &Vocabulary,
) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"contrastive corpus 1");
    let mut list = |length: usize, bytes: &mut dyn Iterator<Item = [u8; 8]>| {
        hasher.update(&(length as u64).to_le_bytes());
        bytes.for_each(|bytes| {
            hasher.update(&bytes);
        });
    };
    list(numbers.len(), &mut numbers.iter().map(|&n| u64::from(n).to_le_bytes()));
    list(ends.len(), &mut ends.iter().map(|&n| (n as u64).to_le_bytes()));
    list(passages.len(), &mut passages.iter().map(|range| (range.start as u64).to_le_bytes()));
    for word in vocabulary.words() {
        hasher.update(word.as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize().to_hex()[..32].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialogue_is_told_from_the_narrator() {
        let text = Text::new(
            "x",
            "\"Oh!\nSingle, my dear.\"\n\nMr. Bennet made no answer.\n\"No,\" said he.\n\n\"She went on.\n\nHe left.\n\"\"\n=== y\nEnd.\n",
        );
        let got = text.dialogue();
        let got: Vec<(&str, bool)> = got.iter().map(|(sentence, said)| (sentence.as_str(), *said)).collect();
        let expected = [
            ("Oh!", true),
            ("Single, my dear.", true),
            ("Mr. Bennet made no answer.", false),
            ("She went on.", true),
            ("He left.", false),
            ("End.", false),
        ];
        assert_eq!(got, expected);
        let prose = Text::prose().dialogue();
        let said = prose.iter().filter(|(_, said)| *said).count();
        assert!(
            prose.len() > 1000 && (0.3..0.7).contains(&(said as f64 / prose.len() as f64)),
            "{said} of {}",
            prose.len()
        );
    }

    #[test]
    fn passages_keep_to_their_document() -> Result<()> {
        let lines = |from: usize, to: usize| (from..to).map(|i| format!("w{i} x\n")).collect::<String>();
        let content =
            format!("=== one\n{}\n{}=== short\nw0\n=== two\n{}", lines(0, 3), lines(3, 8), lines(8, 11));
        let text = Text::new("books", content);
        assert_eq!(text.sentences().count(), 12);
        let vocabulary = Vocabulary::build(text.sentences(), 100)?;
        let windows = WindowConfig { sentences: 3, words: 4 };
        let corpus = Corpus::new(&text, &vocabulary, &windows)?;
        assert_eq!((corpus.len(), corpus.size()), (3, (12, 23)));
        let first = |index: usize| -> Result<Vec<String>> {
            let word = |sentence: &Vec<u32>| vocabulary.words()[sentence[0] as usize].clone();
            Ok(corpus.sample(index)?.iter().map(word).collect())
        };
        assert_eq!(first(0)?, ["w0", "w1", "w2", "w3", "w4"]);
        assert_eq!(first(1)?, ["w3", "w4", "w5", "w6", "w7"]);
        assert_eq!(first(2)?, ["w8", "w9", "w10"]);
        assert!(corpus.sample(3).is_err());
        let other = Corpus::new(&text, &Vocabulary::build(["w1 x"], 9)?, &windows)?;
        assert_ne!(other.fingerprint(), corpus.fingerprint());
        let long = WindowConfig { sentences: 9, words: 4 };
        let refused = Corpus::new(&text, &vocabulary, &long).expect_err("refused").to_string();
        assert!(refused.contains("books") && refused.contains("9 sentences"), "{refused}");
        Ok(())
    }

    #[test]
    fn files_are_checked() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("books.txt");
        for (bytes, fault) in [(&[0x1f, 0x8b, 8][..], "gzip"), (&[0xff, 0xfe], "UTF-8")] {
            std::fs::write(&path, bytes).expect("written");
            let refused = Text::read(&path).expect_err("refused").to_string();
            assert!(refused.contains("books.txt") && refused.contains(fault), "{refused}");
        }
        std::fs::write(&path, "One.\n\nTwo.\n").expect("written");
        let text = Text::read(&path).expect("read");
        assert_eq!((text.name(), text.sentences().collect::<Vec<_>>()), ("books", vec!["One.", "Two."]));
    }
}
