//! InstDisc: *Unsupervised Feature Learning via Non-Parametric Instance Discrimination* (Wu, Xiong, Yu, Lin, CVPR 2018).
//!
//! Every training image is a class of its own. In the place of a classifier's weights stands a memory bank with one unit
//! vector `vᵢ` per image, the image's own feature when it was last seen. With `f = g(f(image))` scaled to unit length,
//!
//! ```text
//! P(i | f) = exp(vᵢ·f/τ) / Σ_{j≤N} exp(v_j·f/τ)                     (eq. 2)
//! h(i, f)  = P(i | f) / (P(i | f) + K/N)                            (eq. 6)
//! L        = −log h(i, f) − Σ_{k≤K} log(1 − h(j_k, f))              (eq. 7, one sample)
//! ```
//!
//! On small sets the cross-entropy of eq. 2 is the loss itself. On large ones NCE stands for it: K rows `j_k` are drawn
//! from the bank, and the denominator of eq. 2 is a constant Z, estimated from the very first batch (eq. 8). After the
//! step the bank takes what it saw: `vᵢ ← norm(m vᵢ + (1 − m) f)`.
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the method's settings and their ranges |
//! | [`model`] | backbone and head |
//! | [`loss`] | the losses over the bank (core's) and the proximal term |
//! | [`method`] | one step, as the training loop sees it |
//! | [`recipe`] | presets of the paper, of the official repository, and small ones |
//! | [`mod@weights`] | names in checkpoints |
//!
//! The bank is [`contrastive_core::state::MemoryBank`]; which of its rows a sample is compared with says
//! [`contrastive_core::state::bank_rows`].
//!
//! # Departures from the paper and the official code
//! - The paper's proximal term `λ‖vᵢ⁽ᵗ⁾ − vᵢ⁽ᵗ⁻¹⁾‖²` (`proximal`) is 0 in all presets: the official code has the bank's
//!   momentum of 0.5 instead.
//! - The bank begins uniform with rows of unit length in the mean, as in the official code; the paper's begins with unit
//!   rows.
//! - NCE is computed as a softplus of logits, without the `1e-7` that the official code adds to denominators: 2e-6 of
//!   the loss on the reference numbers.
//! - Noise is drawn from one stream for each sample and step, so that it depends neither on the rank nor on threads.
//! - An epoch leaves out an incomplete last batch; the official code keeps it.
//! - Batch norm is of one rank, as in the official code, whose ranks are the GPUs of one process.
//! - Features for evaluation are the backbone's, not the head's 128.
//! - The paper's AlexNet and VGG16 have no counterpart here.
//!
//! # Example
//! ```
//! use contrastive_core::experiment::MethodConfig;
//! use contrastive_instdisc::recipe;
//!
//! let run = recipe::preset("smoke")?;
//! run.check()?;
//! let mut method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! method.prepare(1000)?; // the bank; the training loop does this
//! assert_eq!(method.name(), "instdisc");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod config;
pub mod loss;
pub mod method;
pub mod model;
pub mod recipe;
pub mod weights;

pub use config::{InstDiscConfig, LossForm};
pub use method::InstDisc;
