//! MoCo v1: *Momentum Contrast for Unsupervised Visual Representation Learning* (He, Fan, Wu, Xie, Girshick, CVPR 2020),
//! v2: *Improved Baselines with Momentum Contrastive Learning* (Chen, Fan, Girshick, He, 2020), and v3: *An Empirical
//! Study of Training Self-Supervised Vision Transformers* (Chen, Xie, He, ICCV 2021).
//!
//! A query encoder learns to find, for each image, what a slowly following key encoder makes of another view of it. With
//! unit queries q and keys k, momentum m and temperature τ,
//!
//! ```text
//! L   = −log  exp(q·k₊/τ) / Σ_{i=0..K} exp(q·k_i/τ)            (v1, eq. 1; k₁..k_K are the queue)
//! θ_k ← m θ_k + (1 − m) θ_q                                    (v1, eq. 2)
//! ctr(q, k) = 2τ · CE(q kᵀ/τ, diagonal),  L = ctr(q₁, k₂) + ctr(q₂, k₁)      (v3, algorithm 1; keys of the batch)
//! ```
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the settings of v1, v2 and v3 and their ranges |
//! | [`model`] | backbone and head, v3's predictor |
//! | [`loss`] | eq. 1 against the queue, v3's against the batch |
//! | [`shuffle`] | shuffled batch norm |
//! | [`method`] | one step of v1 and v2, as the training loop sees it |
//! | [`v3`] | one step of v3 |
//! | [`vit`] | v3's initialisers and positions of a vision transformer |
//! | [`recipe`] | presets of the papers, of the official repositories and notebook, and small ones |
//! | [`mod@weights`] | names in checkpoints, and the official files' |
//!
//! # Departures from the papers and the official code
//! - Devices are emulated by consecutive groups of a batch ([`contrastive_core::nn::BatchNormKind::Split`]); the authors'
//!   notebook puts every eighth sample into a group. Samples come in random order, so the groups are alike.
//! - With several ranks, running statistics are the mean of all ranks' (as the notebook's over its groups); the official
//!   code keeps the first device's. Training does not see them.
//! - The queue takes any number of keys; the official code wants a divisor of K.
//! - A fixed patch projection is part of the graph and its gradient is thrown away, so that the graph is the same for all
//!   settings; the official code computes none.
//! - The momentum of v1 and v2 is constant and there is one queue (solo-learn's variant of v2 raises it and has two).
//! - The preset `v3-cifar10` pads the stem by 1, solo-learn's network by 2. `v2-cifar10` adds both directions' losses at
//!   half of lightly's rate and twice its decay, which for SGD is its mean at full rate; lightly's second direction sees
//!   the keys of the first in its queue.
//!
//! # Example
//! ```
//! use contrastive_core::experiment::MethodConfig;
//! use contrastive_moco::recipe;
//!
//! let run = recipe::preset("v2-smoke")?;
//! run.check()?;
//! let method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! assert_eq!(method.name(), "moco-v2");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod config;
pub mod loss;
pub mod method;
pub mod model;
pub mod recipe;
pub mod shuffle;
pub mod v3;
pub mod vit;
pub mod weights;

pub use config::{HeadConfig, HeadsConfig, MocoConfig, QueueConfig, TransformerConfig, V3Config};
pub use method::Moco;
pub use v3::MocoV3;
