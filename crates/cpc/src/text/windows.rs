//! From passages to windows of sentences.

use contrastive_core::data::{Array, Transform};
use contrastive_core::rng::Key;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::corpus::Passage;

/// What stands behind the last word of a sentence in a view.
pub const PADDING: f32 = -1.0;

/// How a corpus becomes windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// L, the sentences of a window.
    pub sentences: usize,
    /// Words of a sentence at most; further ones are cut off.
    pub words: usize,
}

impl WindowConfig {
    /// Checks the ranges. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self, at: &str) -> Result<()> {
        for (key, value, least) in [("sentences", self.sentences, 2), ("words", self.words, 1)] {
            if !(least..=1 << 16).contains(&value) {
                let reason = format!("must be from {least} to {}", 1 << 16);
                return Err(Error::config(format!("{at}.{key}"), reason));
            }
        }
        Ok(())
    }
}

/// A window at a random sentence of a passage: one view `[L, W]` of numbers of words, [`PADDING`] behind the last one of
/// each sentence.
#[derive(Debug, Clone, Copy)]
pub struct Windows(pub WindowConfig);

/// The first `words` words of a sentence, followed by [`PADDING`], behind `data`.
pub(super) fn pad(sentence: &[u32], words: usize, data: &mut Vec<f32>) {
    let end = data.len() + words;
    data.extend(sentence.iter().take(words).map(|&number| number as f32));
    data.resize(end, PADDING);
}

impl Transform<Passage> for Windows {
    fn apply(&self, passage: &Passage, key: Key) -> Result<Vec<Array>> {
        let WindowConfig { sentences, words } = self.0;
        let Some(room) = passage.len().checked_sub(sentences) else {
            let reason = format!("{} sentences are fewer than a window's {sentences}", passage.len());
            return Err(Error::data("passage", reason));
        };
        let start = key.view(0).stream().below(room as u64 + 1) as usize;
        let mut data = Vec::with_capacity(sentences * words);
        passage[start..start + sentences].iter().for_each(|sentence| pad(sentence, words, &mut data));
        Ok(vec![Array { shape: vec![sentences, words], data }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contrastive_core::rng::Purpose;

    #[test]
    fn windows_begin_everywhere_in_a_passage() -> Result<()> {
        let passage: Passage = (0..5).map(|i| vec![i; 2 + i as usize]).collect();
        let windows = Windows(WindowConfig { sentences: 3, words: 4 });
        let key = Key::new(0, Purpose::Augment);
        let mut starts = std::collections::BTreeSet::new();
        for sample in 0..60 {
            let view = windows.apply(&passage, key.sample(sample))?.remove(0);
            assert_eq!((view.shape.as_slice(), view.data.len()), (&[3usize, 4][..], 12));
            starts.insert(view.data[0] as u32);
            if view.data[0] == 1.0 {
                let expected = [[1.0, 1.0, 1.0, -1.0], [2.0; 4], [3.0; 4]].concat();
                assert_eq!(view.data, expected);
            }
        }
        assert_eq!(starts.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(windows.apply(&passage[..2].to_vec(), key).is_err());
        Ok(())
    }
}
