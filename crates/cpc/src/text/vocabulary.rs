//! The words that a network knows.

use std::collections::HashMap;
use std::path::Path;

use contrastive_core::{Error, Result};

use super::tokens::tokenise;

/// What stands for every other word; number 0 of every vocabulary. [`tokenise`] never gives it.
pub const UNKNOWN: &str = "<unk>";

/// Words by number: [`UNKNOWN`] first, then by falling frequency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    words: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Vocabulary {
    /// These words in this order behind [`UNKNOWN`].
    ///
    /// # Errors
    /// [`Error::Data`] naming a word that is empty, holds white space or comes twice.
    pub fn new(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut all = Self { words: Vec::new(), numbers: HashMap::new() };
        for word in std::iter::once(UNKNOWN.to_string()).chain(words) {
            if word.is_empty() || word.contains(char::is_whitespace) {
                return Err(Error::data("vocabulary", format!("`{word}` is no word")));
            }
            let number = all.words.len() as u32;
            if all.numbers.insert(word.clone(), number).is_some() {
                return Err(Error::data("vocabulary", format!("`{word}` comes twice")));
            }
            all.words.push(word);
        }
        Ok(all)
    }

    /// The `size − 1` most frequent words of all `sentences` behind [`UNKNOWN`], fewer where there are fewer. Words of
    /// the same frequency come in the order of their characters.
    ///
    /// # Errors
    /// [`Error::Data`] where there is no word at all.
    pub fn build<'a>(sentences: impl IntoIterator<Item = &'a str>, size: usize) -> Result<Self> {
        let mut counts: HashMap<String, u64> = HashMap::new();
        for word in sentences.into_iter().flat_map(tokenise) {
            *counts.entry(word).or_default() += 1;
        }
        if counts.is_empty() {
            return Err(Error::data("vocabulary", "the sentences hold no words"));
        }
        let mut order: Vec<(String, u64)> = counts.into_iter().collect();
        order.sort_unstable_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
        order.truncate(size.saturating_sub(1));
        Self::new(order.into_iter().map(|(word, _)| word))
    }

    /// The number of words, [`UNKNOWN`] among them.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Never: there is [`UNKNOWN`].
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// All words by number.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The number of a word, if it is known.
    pub fn number(&self, word: &str) -> Option<u32> {
        self.numbers.get(word).copied()
    }

    /// The numbers of the words of a sentence; a sentence without any is one unknown word.
    pub fn numbers(&self, sentence: &str) -> Vec<u32> {
        let mut numbers: Vec<u32> =
            tokenise(sentence).iter().map(|word| self.number(word).unwrap_or(0)).collect();
        if numbers.is_empty() {
            numbers.push(0);
        }
        numbers
    }

    /// Writes one word a line, [`UNKNOWN`] first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        std::fs::write(path, self.words.join("\n") + "\n").map_err(Error::io(path))
    }

    /// Reads what [`Vocabulary::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming the file for anything else.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let mut lines = text.lines();
        if lines.next() != Some(UNKNOWN) {
            return Err(Error::format(path, format!("the first line of a vocabulary is {UNKNOWN}")));
        }
        Self::new(lines.map(str::to_string)).map_err(|error| Error::format(path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_come_first_and_files_bring_them_back() -> Result<()> {
        let sentences = ["The cat saw the dog.", "A dog ran; the end."];
        let vocabulary = Vocabulary::build(sentences, 5)?;
        assert_eq!(vocabulary.words(), [UNKNOWN, "the", ".", "dog", ";"]);
        assert_eq!(vocabulary.numbers("The dog flew."), [1, 3, 0, 2]);
        assert_eq!(vocabulary.numbers("  "), [0]);
        assert_eq!(Vocabulary::build(sentences, 100)?.len(), 10);
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("vocabulary.txt");
        vocabulary.save(&path)?;
        assert_eq!(Vocabulary::load(&path)?, vocabulary);
        for (text, fault) in
            [("the\n", UNKNOWN), ("<unk>\na\na\n", "`a` comes twice"), ("<unk>\n\n", "no word")]
        {
            std::fs::write(&path, text).expect("written");
            let refused = Vocabulary::load(&path).expect_err("refused").to_string();
            assert!(refused.contains("vocabulary.txt") && refused.contains(fault), "{refused}");
        }
        assert!(Vocabulary::build([" "], 5).is_err());
        Ok(())
    }
}
