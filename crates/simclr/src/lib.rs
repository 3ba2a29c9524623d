//! SimCLR v1: *A Simple Framework for Contrastive Learning of Visual Representations* (Chen, Kornblith, Norouzi,
//! Hinton, ICML 2020), and v2: *Big Self-Supervised Models are Strong Semi-Supervised Learners* (Chen, Kornblith,
//! Swersky, Norouzi, Hinton, NeurIPS 2020).
//!
//! Two random augmentations of each image are pulled together and pushed away from the other 2N − 2 views of the
//! batch. With `z = g(f(x))` and `s(i, j)` the cosine of `zᵢ` and `zⱼ`,
//!
//! ```text
//! ℓ(i,j) = −log  exp(s(i,j)/τ) / Σ_{k≠i} exp(s(i,k)/τ)          (eq. 1)
//! L      = 1/(2N) Σ_k [ℓ(2k−1,2k) + ℓ(2k,2k−1)]                (algorithm 1)
//! ```
//!
//! `f` is the backbone ([`model`]), `g` a small head that v1 throws away afterwards. v2 makes `f` larger and `g` deeper,
//! [fine-tunes](finetune) from the first layer of `g` on few labels, and [distils](distill) the result on unlabelled
//! images.
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the method's settings and their ranges |
//! | [`model`] | backbone and head, and what v2 keeps of both |
//! | [`loss`] | eq. 1 in the paper's and in the official code's form, and v2's distillation |
//! | [`method`] | one step, as the training loop sees it |
//! | [`classifier`] | an encoder with linear logits |
//! | [`finetune`] | a pre-trained encoder trained with labels, and its presets |
//! | [`distill`] | a student trained with a teacher's answers, and its presets |
//! | [`recipe`] | presets of the papers, of the official repository, and small ones |
//! | [`mod@weights`] | names in checkpoints |
//!
//! # Departures from the papers and the official code
//! - The random crop draws the aspect ratio log-uniformly in ten tries (torchvision) instead of uniformly in a hundred
//!   (TensorFlow), and works on 8-bit pixels, as Pillow does.
//! - The blur's σ is drawn per image; the official code draws it once for a whole batch.
//! - v2's memory of 64K negatives from a momentum encoder is not here: it is not in the released code either.
//! - Under LARS the official code adds the weight decay of the logits to the loss; here the logits have none. Fine-tuning
//!   has no weight decay at all, so only distillation differs.
//! - The labelled term of distillation (α below 1) takes its labels from the batch; the paper draws it from the labelled
//!   images alone.
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

pub mod classifier;
pub mod config;
pub mod distill;
pub mod finetune;
pub mod loss;
pub mod method;
pub mod model;
pub mod recipe;
pub mod weights;

pub use classifier::{Classifier, ClassifierConfig};
pub use config::{HeadConfig, HeadStyle, LossForm, SimClrConfig, Version};
pub use distill::{Distill, DistillConfig};
pub use finetune::{FineTune, FineTuneConfig};
pub use method::SimClr;

/// The example of the repository's README is compiled with the documentation tests.
#[cfg(all(doctest, feature = "data"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
