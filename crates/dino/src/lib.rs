//! DINO: *Emerging Properties in Self-Supervised Vision Transformers* (Caron, Touvron, Misra, Jégou, Mairal, Bojanowski,
//! Joulin, ICCV 2021).
//!
//! Self-distillation without labels: a student matches the output distribution of a teacher across crops of an image.
//! The teacher is a moving average of the student and sees the two global crops x₁, x₂ only; the student sees all V
//! crops. With `s = h(f_θ(x))` and `t = h(f_ξ(x))`, each of K numbers,
//!
//! ```text
//! P_t(x) = softmax((t(x) − c) / τ_t),   P_s(x) = softmax(s(x) / τ_s)          (eq. 1, with the centre)
//! L      = 1/(2V−2) Σ_{i∈{1,2}} Σ_{v≠i} −P_t(x_i) · log P_s(x_v)              (eq. 3)
//! c     ← m c + (1 − m) mean t                                               (eq. 4, after the loss)
//! ξ     ← λ ξ + (1 − λ) θ,  λ from 0.996 to 1                                 (after the step)
//! ```
//!
//! The centre keeps one dimension from winning, the low temperature τ_t ("sharpening") keeps all from being equal:
//! together they prevent collapse, either alone does not.
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the method's settings and their ranges, momentum and temperature over time |
//! | [`model`] | backbone and head, views of several sizes |
//! | [`head`] | perceptron, l2 normalisation, weight-normed layer |
//! | [`loss`] | eq. 1 and eq. 3 |
//! | [`centre`] | eq. 4 |
//! | [`method`] | one step, as the training loop sees it |
//! | [`features`] | what the linear probe sees, and attention maps |
//! | [`recipe`] | presets of the paper, of the official repository and others, and small ones |
//! | [`mod@weights`] | names in checkpoints |
//!
//! What is evaluated and exported is the teacher.
//!
//! # Departures from the paper and the official code
//! - The learning rate's warm-up over W steps gives step s the part s/W, as everywhere in this workspace; the official
//!   `linspace` gives it s/(W−1), so that the last step of the warm-up has the full rate already.
//! - The centre is updated after the optimiser's step instead of right after the loss. Nothing reads it in between.
//! - Local batches of one rank must be equally large on all ranks for the centre's mean, which the loader guarantees.
//! - A g that stays 1 (`norm_last_layer`) is a buffer and not a parameter without gradient. Names and shapes are
//!   PyTorch's.
//! - `l2_normalize` adds its ε inside the root.
//! - Nothing runs in half precision; the official code's default does.
//! - lightly's CIFAR-10 recipe (preset `cifar10`) begins the head's hidden layers with PyTorch's initialiser, decays
//!   biases too, gives each view a batch of its own in batch norm, and updates the teacher before the step; solo-learn's
//!   pads its stem by two pixels. Here both follow this crate.
//! - XCiT backbones are not here.
//!
//! # Example
//! ```
//! use contrastive_core::experiment::MethodConfig;
//! use contrastive_dino::recipe;
//!
//! let run = recipe::preset("smoke")?;
//! run.check()?;
//! let method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! assert_eq!(method.name(), "dino");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod centre;
pub mod config;
pub mod features;
pub mod head;
pub mod loss;
pub mod method;
pub mod model;
pub mod recipe;
pub mod weights;

pub use centre::Centre;
pub use config::{DinoConfig, HeadConfig, TeacherTemperature};
pub use method::Dino;
