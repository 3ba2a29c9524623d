//! CPC on text (the paper's section 3.3): from sentences in their order to one vector for each.
//!
//! A sentence is embedded by a convolution over its words, a ReLU and the mean; a recurrent network reads sentences one
//! after another and predicts the embeddings of the next three.
//!
//! | file | holds |
//! | --- | --- |
//! | [`tokens`], [`vocabulary`] | how text becomes words and words become numbers |
//! | [`corpus`], [`windows`] | sentences in their order, and the windows that training sees |
//! | [`config`] | settings and their ranges |
//! | [`ops`] | word vectors of neighbouring words, means over sentences |
//! | [`model`], [`task`] | the networks, and what is told apart |
//! | [`method`] | one step, as the training loop sees it |
//! | [`recipe`], `run` | presets; whole runs (feature `data`) |
//! | [`embedder`] | vectors of any sentences |
//! | [`expand`] | words that training never saw, by linear regression from given word vectors |
//! | [`probes`] | MR, CR, Subj, MPQA, TREC by logistic regression |
//!
//! # Departures from the paper
//! - The paper names neither the width of the convolution's kernel (1 here, as in V. Araujo's implementation; a setting)
//!   nor how words are cut from text ([`tokens`]).
//! - Vocabulary, word vectors, window and length of sentences are those that the authors gave to V. Araujo. Their
//!   curve of the loss begins at 16.6 = ln 320 + ln 256 + ln 192 for batches of 64: all times predict, and step k has the
//!   64·(6 − k) targets that lie k or more sentences behind a beginning as its candidates. The loss is the sum over steps.

pub mod config;
pub mod corpus;
pub mod embedder;
pub mod expand;
pub mod method;
pub mod model;
pub mod ops;
pub mod probes;
pub mod recipe;
#[cfg(feature = "data")]
pub mod run;
pub mod task;
pub mod tokens;
pub mod vocabulary;
pub mod windows;

pub use config::{SentenceConfig, TextConfig, TextRun};
pub use corpus::{Corpus, Text};
pub use embedder::{BagOfWords, Embedder, SentenceFeatures, Vectors};
pub use method::TextCpc;
pub use model::TextModel;
pub use vocabulary::Vocabulary;
pub use windows::{WindowConfig, Windows};
