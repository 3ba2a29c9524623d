//! CPC on images (the paper's section 3.2): a grid of overlapping patches, read row by row from the top.
//!
//! Every patch is encoded by itself. A context network that sees a row and those above it predicts the vectors of the
//! patches several rows below in the same column, one map `W_k` for each distance.
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | settings and their ranges |
//! | [`context`] | the masked context network |
//! | [`model`] | encoder, context network and predictors |
//! | [`task`] | the task over a batch of grids |
//! | [`method`] | one step, as the training loop sees it |
//! | [`recipe`] | presets of the paper and of Greedy InfoMax, and small ones |
//! | `units` | the patches that drive units of the encoder most: the paper's figure 5 (feature `data`) |
//!
//! The encoder is [`contrastive_core::nn::PatchNet`], so that exported ones are a backbone like others: an image's
//! features are the mean of its patches' vectors.
//!
//! # Departures from the paper
//! - The paper names PixelCNN for the context network and no sizes: here it is the one that the authors published with
//!   CPC v2.
//! - Which rows are predicted is told by "up to five rows" and by figure 4, which shows two, three and four rows below:
//!   the preset `images-paper` predicts two to five. Its epochs and its normalisation are not the paper's, which gives
//!   none.
//! - Cropped patches are padded with zeros on all sides. Evaluation shows whole patches.
//! - Candidates are the vectors of all ranks, so that a step does not depend on how a batch is split.
//! - Greedy InfoMax's CPC adds 1e-11 to probabilities, draws negatives from the rows that are targets of the step alone
//!   (here: from all rows), and anew for every step k (here: once for every target).
//!
//! # Example
//! ```
//! use contrastive_core::experiment::MethodConfig;
//! use contrastive_cpc::images::recipe;
//!
//! let run = recipe::preset("images-smoke")?;
//! run.check()?;
//! let method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! assert_eq!(method.name(), "cpc-images");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod config;
pub mod context;
pub mod method;
pub mod model;
pub mod recipe;
pub mod task;
#[cfg(feature = "data")]
pub mod units;

pub use config::{ImagesConfig, Negatives, RowContextConfig, RowsConfig};
pub use context::RowContext;
pub use method::ImagesCpc;
pub use model::{Grids, ImagesModel};
