//! SimCLR v1: *A Simple Framework for Contrastive Learning of Visual Representations* (Chen, Kornblith, Norouzi,
//! Hinton, ICML 2020).
//!
//! Two random augmentations of each image are pulled together and pushed away from the other 2N − 2 views of the
//! batch. With `z = g(f(x))` and `s(i, j)` the cosine of `zᵢ` and `zⱼ`,
//!
//! ```text
//! ℓ(i,j) = −log  exp(s(i,j)/τ) / Σ_{k≠i} exp(s(i,k)/τ)          (eq. 1)
//! L      = 1/(2N) Σ_k [ℓ(2k−1,2k) + ℓ(2k,2k−1)]                (algorithm 1)
//! ```
//!
//! `f` is the backbone ([`model`]), `g` a small head that is thrown away afterwards.
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the method's settings and their ranges |
//! | [`model`] | backbone and head |
//! | [`loss`] | eq. 1 in the paper's and in the official code's form |
//! | [`method`] | one step, as the training loop sees it |
//! | [`recipe`] | presets of the paper, of the official repository, and small ones |
//! | [`mod@weights`] | names in checkpoints |
//!
//! # Departures from the paper and the official code
//! - The random crop draws the aspect ratio log-uniformly in ten tries (torchvision) instead of uniformly in a hundred
//!   (TensorFlow), and works on 8-bit pixels, as Pillow does.
//! - The blur's σ is drawn per image; the official code draws it once for a whole batch.
//! - The stem's max-pool pads symmetrically (torchvision); TensorFlow's `SAME` pads bottom and right only. Weights
//!   trained there need the other padding to be reproduced exactly.
//!
//! # Example
//! ```
//! use contrastive_core::experiment::MethodConfig;
//! use contrastive_simclr::recipe;
//!
//! let run = recipe::preset("smoke")?;
//! run.check()?;
//! let method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! assert_eq!(method.name(), "simclr");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod config;
pub mod loss;
pub mod method;
pub mod model;
pub mod recipe;
pub mod weights;

pub use config::{HeadConfig, HeadStyle, LossForm, SimClrConfig};
pub use method::SimClr;

/// The example of the repository's README is compiled with the documentation tests.
#[cfg(all(doctest, feature = "data"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
