//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*`, `projector.*`, `prototypes.weight` and the queues; an exported encoder holds
//! the backbone under torchvision's names. The official checkpoints call the same tensors `module.` + torchvision's
//! names, `module.projection_head.{0,1,3}.*` and `module.prototypes.weight`.

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the projector in the parameter store.
pub const PROJECTOR: &str = "projector";
/// Prefix of the prototypes in the parameter store.
pub const PROTOTYPES: &str = "prototypes";
/// The only tensor of the prototypes, `[K, D]`.
pub const PROTOTYPES_WEIGHT: &str = "prototypes.weight";
/// Name of the queues in the state: `queue.0` belongs to the first assigned view.
pub const QUEUE: &str = "queue";
