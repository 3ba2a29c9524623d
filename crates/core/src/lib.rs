//! The shared floor of the `contrastive` workspace: everything a self-supervised method needs and none of the methods.
//!
//! Modules are ordered; a module may use only those listed before it (`docs/architecture.md` has the whole map):
//!
//! | module | holds |
//! | --- | --- |
//! | [`error`], [`rng`], [`progress`] | the one error type; keyed random streams; where a run stands |
//! | [`dist`] | ranks that compute together: the [`dist::Communicator`] trait and the in-process ranks |
//! | [`tensor`] | differentiable helpers, the finite-difference gradient checker |
//! | [`kernels`] | fused CPU operations with their own backward, and their plain-Candle twins |
//! | [`nn`] | parameter store, layers, initialisers, backbones |
//! | [`optim`] | optimisers, schedules, parameter groups |
//! | [`loss`] | losses: pure functions over tensors |
//! | [`state`] | what methods own beside parameters: averages for momentum encoders |
//! | [`augment`] | torchvision-exact image operations and printable recipes |
//! | [`data`] | sources of samples, the loader (decoders need feature `data`, the Hub needs feature `hub`) |
//! | [`eval`] | named, versioned protocols on frozen features |
//! | [`diagnostics`] | instruments that see a collapse coming |
//! | [`weights`] | safetensors in and out, manifests |
//! | [`train`] | the one loop: checkpoints, resume, events |
//! | [`experiment`] | a whole run from one value: configuration and data in, trained encoder out |
//! | [`image_eval`] | protocols that train on images: the papers' linear ones, fine-tuning |

pub mod augment;
pub mod data;
pub mod diagnostics;
pub mod dist;
pub mod error;
pub mod eval;
pub mod experiment;
pub mod image_eval;
pub mod kernels;
pub mod loss;
pub mod nn;
pub mod optim;
pub mod progress;
pub mod rng;
pub mod state;
pub mod tensor;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
