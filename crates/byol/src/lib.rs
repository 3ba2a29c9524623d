//! BYOL: *Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning* (Grill, Strub, Altché, Tallec et al.,
//! NeurIPS 2020).
//!
//! An online network predicts what a target network makes of another view of the same image; the target network
//! follows the online one slowly. There are no negatives. With the online projection `z = g(f(x))` of one view, its
//! prediction `q(z)`, the target's projection `z'` of the other view, and unit-length rows,
//!
//! ```text
//! L(θ, ξ) = ‖q̄(z) − z̄'‖² = 2 − 2 cos(q(z), z')                       (eq. 2)
//! loss    = L of view 1 against view 2 + L of view 2 against view 1
//! θ ← optimiser(θ, ∇θ loss),    ξ ← τ ξ + (1 − τ) θ                     (eqs. 3, 4; algorithm 1)
//! τ       = 1 − (1 − τ₀)(cos(πk/K) + 1)/2       in step k of K
//! ```
//!
//! `f` is the backbone, `g` and `q` are heads that are thrown away afterwards ([`model`]).
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the method's settings and their ranges |
//! | [`model`] | backbone, projector and predictor |
//! | [`loss`] | eq. 2, in the paper's scale and in SimSiam's |
//! | [`method`] | one step, and the target's update, as the training loop sees it |
//! | [`recipe`] | presets of the paper, of the official repository, of CIFAR-10 benchmarks, and small ones |
//! | [`mod@weights`] | names in checkpoints |
//!
//! # Departures from the paper and the official code
//! - The official code trains a linear classifier on detached features in the same run; here that is the online probe's
//!   matter and not part of the loss.
//! - Colour jitter multiplies the brightness (torchvision); the official code adds to it. Operations work on 8-bit
//!   pixels, where the official code works on floats and clips at the end.
//! - Strided convolutions and the stem's max-pool pad symmetrically (torchvision); Haiku's `SAME` pads the bottom and
//!   the right only, or more. Weights trained there need the other padding to be reproduced exactly.
//! - Convolutions begin with TensorFlow's variance scaling, whose deviation after the cut is `1/√inputs`; Haiku's is
//!   `1/√inputs` before it, an eighth less. Batch norm behind every convolution takes the scale out again.
//! - Running variances are unbiased (PyTorch).
//! - The CIFAR-10 presets of other libraries: lightly moves the target before the forward pass instead of after the
//!   optimiser's step; solo-learn's stem pads by 2, ours by 1.
//!
//! # Example
//! ```
//! use contrastive_byol::recipe;
//! use contrastive_core::experiment::MethodConfig;
//!
//! let run = recipe::preset("smoke")?;
//! run.check()?;
//! let method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! assert_eq!(method.name(), "byol");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod config;
pub mod loss;
pub mod method;
pub mod model;
pub mod recipe;
pub mod weights;

pub use config::{ByolConfig, HeadConfig, HeadStyle, LossForm, MomentumSchedule, TargetInit};
pub use method::Byol;
