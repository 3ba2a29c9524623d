//! InvaSpread: *Unsupervised Embedding Learning via Invariant and Spreading Instance Feature* (Ye, Zhang, Yuen, Chang,
//! CVPR 2019).
//!
//! One network sees two augmentations of each image. The other augmentation is the positive, the other images of the
//! batch are the negatives, and both are the features of this very step: there is no memory. With the batch's `2B` unit
//! features `xᵢ`, the other view `x̂ᵢ` of each, and everything on the right of a product held constant,
//!
//! ```text
//! P(i | x̂ᵢ) = exp(xᵢ·x̂ᵢ/τ) / Σ_{k≠i} exp(xᵢ·x_k/τ)        invariant
//! P(j | xᵢ) = exp(xᵢ·x_j/τ) / Σ_{k≠i} exp(xᵢ·x_k/τ)        spreading
//! L = −1/(2B) Σᵢ [log P(i | x̂ᵢ) + Σ_{j≠i} log(1 − P(j | xᵢ))]
//! ```
//!
//! (eq. 6 of the paper, in the form of the official code; `j` runs over other images' views.)
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the method's settings and their ranges |
//! | [`model`] | backbone and head |
//! | [`loss`] | the official code's criterion |
//! | [`method`] | one step, as the training loop sees it |
//! | [`recipe`] | presets of the official repository, and small ones |
//! | [`mod@weights`] | names in checkpoints |
//!
//! # Departures from the paper and the official code
//! - A negative whose probability rounds to 1 in f32 gives `log(2⁻²⁴)` and no gradient; the official code gives an
//!   infinite loss.
//! - Negatives come from all ranks, and batch norm is of one rank: the official code splits its batch over GPUs for the
//!   network and joins it for the loss, which is the same.
//! - STL-10's 12x12 feature map is pooled whole. The official code pools its upper left 7x7 window alone, and the
//!   paper's numbers come from there.
//! - Features for evaluation are the backbone's, not the head's 128.
//! - The experiments on unseen classes (a GoogLeNet trained on ImageNet, retrieval on CUB-200, Cars-196 and Stanford
//!   Online Products) have no preset: there is no such backbone here.
//!
//! # Example
//! ```
//! use contrastive_core::experiment::MethodConfig;
//! use contrastive_invaspread::recipe;
//!
//! let run = recipe::preset("smoke")?;
//! run.check()?;
//! let method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! assert_eq!(method.name(), "invaspread");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod config;
pub mod loss;
pub mod method;
pub mod model;
pub mod recipe;
pub mod weights;

pub use config::InvaSpreadConfig;
pub use method::InvaSpread;
