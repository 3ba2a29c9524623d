//! CPC: *Representation Learning with Contrastive Predictive Coding* (van den Oord, Li, Vinyals 2018).
//!
//! A network that reads a sequence predicts what it will read next, not as samples but as codes, and is asked only to
//! tell the true code from others. With an encoder `z_t = g_enc(x_t)`, a context `c_t = g_ar(z_{≤t})` and a linear map
//! `W_k` for every step k into the future,
//!
//! ```text
//! f_k(x_{t+k}, c_t) = exp(z_{t+k}ᵀ W_k c_t)                                       (eq. 3)
//! L = − E log( f_k(x_{t+k}, c_t) / Σ_{x_j ∈ X} f_k(x_j, c_t) )                    (eq. 4)
//! ```
//!
//! where X is the true target and its negatives. The softmax runs over targets for a fixed context; there is no
//! temperature and no normalisation, and nothing is cut from the graph. Then `I(x_{t+k}; c_t) ≥ ln N − L`.
//!
//! | file | holds |
//! | --- | --- |
//! | [`mod@loss`] | eq. 4 over any candidates, with the accuracies |
//! | [`negatives`] | the schemes of the paper's table 2 and of published implementations |
//! | [`predictor`] | the maps W_k |
//! | [`objective`] | the task over a batch of sequences |
//! | [`images`] | section 3.2: grids of patches, recipes, the patches that units see |
//! | `rl` | section 3.4: an actor-critic with CPC as its auxiliary loss (feature `rl`) |
//! | [`speech`] | the paper's section 3.1: networks, data, recipes, probes |
//! | [`text`] | section 3.3: sentences, vocabulary, probes |
//! | `audio` | recordings from files (feature `audio`) |
//! | [`mod@weights`] | names in checkpoints |
//!
//! # Departures from the paper
//! - The paper does not say how many negatives there are, at which times predictions are made, or how convolutions are
//!   padded. The preset `paper` takes all frames of the batch, all times, and the padding that gives 128 frames for
//!   20480 samples.
//! - The paper's batch is 8 windows on each of 8 devices. A batch here is one rank's.
//!
//! # Example
//! ```
//! use contrastive_cpc::speech::{SpeechCpc, recipe};
//!
//! let run = recipe::preset("smoke")?;
//! run.check()?;
//! let method = SpeechCpc::new(run.method, run.train.seed, &candle_core::Device::Cpu)?;
//! assert_eq!(method.model().width(), 64);
//! # Ok::<(), contrastive_core::Error>(())
//! ```

#[cfg(feature = "audio")]
pub mod audio;
pub mod images;
pub mod loss;
pub mod negatives;
pub mod objective;
pub mod predictor;
#[cfg(feature = "rl")]
pub mod rl;
pub mod speech;
pub mod text;
pub mod weights;

pub use negatives::{NegativesConfig, Scheme};
pub use objective::{ObjectiveConfig, Positions, Product};
pub use predictor::Predictor;
