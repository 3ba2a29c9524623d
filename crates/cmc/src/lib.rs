//! CMC: *Contrastive Multiview Coding* (Tian, Krishnan, Isola, ECCV 2020).
//!
//! What matters in a scene is what its views share: its colours and its brightness, its picture and its depth. Each view
//! has an encoder and a bank of its own. An embedding `zᵢ` of one view must tell the embedding that another view has of
//! the same scene from those it has of others. With unit embeddings and the banks' rows `vⱼ` of the *other* view,
//!
//! ```text
//! L(V1→V2) = −log exp(v₂·z₁/τ) / (exp(v₂·z₁/τ) + Σ_{k≤K} exp(v₂⁽ᵏ⁾·z₁/τ))     (eqs. 3 to 6)
//! L(V1, V2) = L(V1→V2) + L(V2→V1)                                             (eq. 7)
//! core view:  Σ_{j≥2} L(V1, Vj)        full graph:  Σ_{i<j} L(Vi, Vj)         (eqs. 8 and 9)
//! ```
//!
//! The softmax is computed as it stands, or approximated by NCE with a constant Z for each direction, as in InstDisc. On
//! images without further views, brightness and colour are the two: L and ab, Y and DbDr, Y and CbCr.
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | the method's settings and their ranges |
//! | [`model`] | an encoder and a head for each side of a colour split |
//! | [`contrast`] | the objective over any number of views, its banks and constants |
//! | [`loss`] | patches against images, and the predictive baselines |
//! | [`method`] | one step, as the training loop sees it |
//! | [`recipe`] | presets of the paper, of the official repository, and small ones |
//! | [`mod@weights`] | names in checkpoints |
//! | [`crd`] | contrastive representation distillation |
//! | [`flow`] | TV-L1 optical flow, and stacks of it |
//! | [`views`] | the same on scenes of any number of views, with predictive baselines and segmentation |
//!
//! The split networks are [`contrastive_core::nn::Split`], half AlexNet [`contrastive_core::nn::AlexNet`], the colour
//! spaces [`contrastive_core::augment::ColorSpace`], and the losses over banks [`contrastive_core::loss`]'s.
//!
//! # Departures from the paper and the official code
//! - NCE is computed as a softplus of logits, without the `1e-7` that the official code adds to denominators.
//! - Noise is drawn from one stream for each sample and step, so that it depends neither on the rank nor on threads.
//! - An epoch leaves out an incomplete last batch.
//! - YDbDr is normalised by the range of its channels; the official code's constants for it were not found.
//! - The variants with RandAugment and FastAutoAugment have no counterpart here.
//! - Features for evaluation are both backbones', next to each other, not the heads' 128.
//!
//! # Example
//! ```
//! use contrastive_cmc::recipe;
//! use contrastive_core::experiment::MethodConfig;
//!
//! let run = recipe::preset("smoke")?;
//! run.check()?;
//! let mut method = run.method.build(run.train.seed, &candle_core::Device::Cpu)?;
//! method.prepare(1000)?; // banks, where the preset has them; the training loop does this
//! assert_eq!(method.name(), "cmc");
//! # Ok::<(), contrastive_core::Error>(())
//! ```

pub mod config;
pub mod contrast;
pub mod crd;
pub mod flow;
pub mod loss;
pub mod method;
pub mod model;
pub mod recipe;
pub mod views;
pub mod weights;

pub use config::{CmcConfig, ContrastConfig, Form, Graph};
pub use contrast::Contrast;
pub use method::Cmc;
