//! CPC on speech (the paper's section 3.1): from wave forms at 16 kHz to one context for every 10 ms.
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | settings and their ranges |
//! | [`model`] | strided convolutions, the recurrent context network, predictors |
//! | [`method`] | one step, as the training loop sees it |
//! | [`recipe`] | presets of the paper and of published implementations, and small ones |
//! | [`recordings`], [`windows`] | recordings in memory, and the windows that training sees |
//! | `run` | a whole run (feature `data`) |
//! | [`phones`] | TIMIT's phones folded to 39 and 41 classes |
//! | [`probes`] | linear and one-hidden-layer probes for phones, speakers and words |
//! | [`parts`] | recordings cut in time; TIMIT's usual division |
//! | [`compare`] | table 1: probes on contexts, MFCC and fresh networks |
//! | [`mfcc`], [`supervised`] | what the paper compares with |
//! | [`streaming`] | the networks on a stream, chunk by chunk |
//! | [`synthetic`] | voices made of a pulse train and resonances, for tests and the smallest preset |

pub mod compare;
pub mod config;
pub mod method;
pub mod mfcc;
pub mod model;
mod norm;
pub mod parts;
pub mod phones;
pub mod probes;
pub mod recipe;
pub mod recordings;
#[cfg(feature = "data")]
pub mod run;
pub mod streaming;
pub mod supervised;
pub mod synthetic;
pub mod windows;

pub use config::{CellKind, ContextConfig, EncoderConfig, Norm, RATE, SpeechConfig, SpeechRun};
pub use method::SpeechCpc;
pub use model::{Codes, SpeechModel};
pub use recordings::{Recording, Recordings, Segment};
pub use windows::{Scale, WindowConfig, Windows};
