//! SwAV: *Unsupervised Learning of Visual Features by Contrasting Cluster Assignments* (Caron, Misra, Mairal, Goyal,
//! Bojanowski, Joulin, NeurIPS 2020).
//!
//! Each view of an image predicts to which of K prototypes the *other* views are assigned. With unit embeddings
//! `z = g(f(x)) / ‖·‖`, unit prototypes `C` and assignments `q`,
//!
//! ```text
//! ℓ(v, i) = −Σ_k qᵢ[k] log softmax(C zᵥ / τ)[k]                          (eq. 2)
//! L       = 1/2 Σ_{i∈{1,2}} 1/(V−1) Σ_{v≠i} ℓ(v, i)                     (eq. 1, with multi-crop)
//! Q       = Diag(u) exp(CᵀZ / ε) Diag(v)                               (eq. 5)
//! ```
//!
//! `Q` holds the assignments of a whole batch (and of a queue, where batches are small): Sinkhorn-Knopp chooses `u` and
//! `v` so that every prototype receives as many samples, which rules the trivial solution out that needs negatives
//! elsewhere. Only the two large views are assigned; small crops predict too (multi-crop).
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the method's settings and their ranges |
//! | [`model`] | backbone, projector and prototypes; multi-crop's forward pass |
//! | [`sinkhorn`](mod@sinkhorn) | eq. 3 to 5: assignments by Sinkhorn-Knopp over all ranks |
//! | [`loss`] | eq. 1 and 2 for any number of views |
//! | [`queues`] | embeddings of past batches |
//! | [`method`] | one step, as the training loop sees it |
//! | [`recipe`] | presets of the paper and the official repository, of other libraries, and small ones |
//! | [`mod@weights`] | names in checkpoints |
//!
//! # Departures from the paper and the official code
//! - Batch norm is synchronised over all ranks; the official code does so in groups of eight GPUs.
//! - Every rank holds the whole queue (in the official code its own share) and brings its share to Sinkhorn-Knopp: the
//!   same set of samples, in a state that all ranks share.
//! - Sinkhorn-Knopp iterates the two scaling vectors instead of the matrix, subtracts the largest scores before the
//!   exponential, and leaves out a division by the sum of Q that cancels: the same numbers.
//! - A prototype out of every sample's reach, which with unit embeddings there can be only for ε below 0.03, has its sum
//!   taken for 1e-30 instead of 0, which would give values that are not numbers.
//! - The warm-up reaches the full rate at its end; in the official code (`linspace`) one step earlier.
//! - The published networks saw OpenCV's blur; the presets have Pillow's, which the official code has since.
//! - `cifar10`: lightly's benchmark sends each view through the network by itself (batch norm sees one view at a time) and
//!   has a bias in the prototypes. `cifar10-solo-learn`: that library pads its first convolution by 2, begins to fill the
//!   queue in the first epoch (it is used from the same epoch on), has a weight norm in place of unit prototypes, and
//!   trains in half precision.
//!
//! # Example
//! ```
//! use contrastive_core::experiment::MethodConfig;
//! use contrastive_swav::recipe;
//!
//! let run = recipe::preset("smoke")?;
//! run.check()?;
//! let method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! assert_eq!(method.name(), "swav");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod config;
pub mod loss;
pub mod method;
pub mod model;
pub mod queues;
pub mod recipe;
pub mod sinkhorn;
pub mod weights;

pub use config::{ProjectorConfig, QueueConfig, SwavConfig};
pub use method::Swav;
