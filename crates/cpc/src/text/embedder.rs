//! Vectors of any sentences.

use std::sync::Arc;

use candle_core::Tensor;
use contrastive_core::nn::Mode;
use contrastive_core::{Error, Result};

use super::model::TextModel;
use super::ops::Packed;
use super::vocabulary::Vocabulary;

/// Something that gives a vector for every sentence.
pub trait SentenceFeatures {
    /// Numbers in a vector.
    fn width(&self) -> usize;

    /// The vectors of sentences, row by row.
    ///
    /// # Errors
    /// Candle's.
    fn features(&self, sentences: &[String]) -> Result<Vec<f32>>;
}

/// Which vectors of the networks are taken. The paper does not say; skip-thought's are those of its encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vectors {
    /// z, the encoder's.
    Sentences,
    /// c, the context network's behind this one sentence.
    Contexts,
}

/// Trained or fresh networks with a vocabulary.
#[derive(Debug, Clone)]
pub struct Embedder<'a> {
    model: &'a TextModel,
    vocabulary: Vocabulary,
    table: Tensor,
    /// Words of a sentence at most; further ones are cut off.
    pub words: usize,
    /// Which vectors are taken.
    pub vectors: Vectors,
}

/// Sentences that are embedded at a time.
const BATCH: usize = 256;

impl<'a> Embedder<'a> {
    /// The networks with the vocabulary that they were trained with; 32 words, the encoder's vectors.
    ///
    /// # Errors
    /// [`Error::Data`] for a vocabulary of more words than the networks have vectors for.
    pub fn new(model: &'a TextModel, vocabulary: &Vocabulary) -> Result<Self> {
        Self::with_table(model, vocabulary.clone(), model.encoder.table().detach())
    }

    /// The networks with another vocabulary and its word vectors `[V', E]`: see [`expand`](super::expand::expand).
    ///
    /// # Errors
    /// [`Error::Data`] for a vocabulary of more words than there are vectors.
    pub fn with_table(model: &'a TextModel, vocabulary: Vocabulary, table: Tensor) -> Result<Self> {
        let (words, rows) = (vocabulary.len(), table.dim(0)?);
        if words > rows {
            let reason = format!("{words} words where there are vectors for {rows}");
            return Err(Error::data("vocabulary", reason));
        }
        Ok(Self { model, vocabulary, table, words: 32, vectors: Vectors::Sentences })
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }
}

impl SentenceFeatures for Embedder<'_> {
    fn width(&self) -> usize {
        match self.vectors {
            Vectors::Sentences => self.model.encoder.config().channels,
            Vectors::Contexts => self.model.context_width(),
        }
    }

    fn features(&self, sentences: &[String]) -> Result<Vec<f32>> {
        let mode = Mode::eval();
        let mut all = Vec::with_capacity(sentences.len() * self.width());
        for part in sentences.chunks(BATCH) {
            let numbers: Vec<Vec<u32>> = part.iter().map(|text| self.vocabulary.numbers(text)).collect();
            let cut = numbers.iter().map(|numbers| &numbers[..numbers.len().min(self.words.max(1))]);
            let z = self.model.encoder.forward_with(&self.table, &Arc::new(Packed::new(cut)), &mode)?;
            let vectors = match self.vectors {
                Vectors::Sentences => z,
                Vectors::Contexts => self.model.contexts(&z.unsqueeze(1)?, &mode)?,
            };
            all.extend(vectors.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(all)
    }
}

/// A bag of words: whether each of the most frequent words is in the sentence (1 or 0).
#[derive(Debug, Clone)]
pub struct BagOfWords {
    vocabulary: Vocabulary,
}

impl BagOfWords {
    /// The `width` most frequent words of `sentences`, the unknown one among them.
    ///
    /// # Errors
    /// Sentences without words.
    pub fn new(sentences: &[String], width: usize) -> Result<Self> {
        Ok(Self { vocabulary: Vocabulary::build(sentences.iter().map(String::as_str), width)? })
    }
}

impl SentenceFeatures for BagOfWords {
    fn width(&self) -> usize {
        self.vocabulary.len()
    }

    fn features(&self, sentences: &[String]) -> Result<Vec<f32>> {
        let width = self.width();
        let mut all = vec![0f32; sentences.len() * width];
        for (row, sentence) in all.chunks_exact_mut(width).zip(sentences) {
            for number in self.vocabulary.numbers(sentence) {
                row[number as usize] = 1.0;
            }
        }
        Ok(all)
    }
}
