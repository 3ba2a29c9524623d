//! SimSiam: *Exploring Simple Siamese Representation Learning* (Chen, He, CVPR 2021).
//!
//! BYOL without the momentum encoder: one network sees two views of an image, and from each view's projection a
//! predictor predicts the other's, which is held fixed. There are no negatives. With `z = f(x)`, `p = h(z)` and
//! `sg` for a tensor cut from the graph,
//!
//! ```text
//! D(p, z) = −cos(p, z)                                              (eq. 1)
//! L       = ½ D(p₁, sg(z₂)) + ½ D(p₂, sg(z₁))                       (eq. 4)
//! ```
//!
//! averaged over the batch: −1 at best. `f` is the backbone with a projector behind it, `h` a bottleneck ([`model`]).
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the method's settings and their ranges |
//! | [`model`] | backbone, projector and predictor |
//! | [`loss`] | eqs. 1, 2 and 4 |
//! | [`method`] | one step, as the training loop sees it |
//! | [`recipe`] | presets of the paper, of the official repository, of CIFAR-10 benchmarks, and small ones |
//! | [`mod@weights`] | names in checkpoints |
//!
//! # Departures from the paper and the official code
//! - The official projector's last layer has a bias that is never trained and that the batch norm behind it takes out
//!   again; here it has none.
//! - solo-learn's CIFAR-10 preset: its stem pads by 2, ours by 1.
//!
//! # Example
//! ```
//! use contrastive_core::experiment::MethodConfig;
//! use contrastive_simsiam::recipe;
//!
//! let run = recipe::preset("smoke")?;
//! run.check()?;
//! let method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! assert_eq!(method.name(), "simsiam");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod config;
pub mod loss;
pub mod method;
pub mod model;
pub mod recipe;
pub mod weights;

pub use config::{HeadConfig, Predictor, SimSiamConfig};
pub use method::SimSiam;
