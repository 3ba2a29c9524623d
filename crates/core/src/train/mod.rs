//! The one training loop. It knows [`Method`] and no method.

pub mod checkpoint;
mod chunks;
pub mod config;
mod grad_cache;
mod means;
mod method;
mod monitors;
mod observer;
mod run_dir;
mod stack;
pub mod tensorboard;
mod together;
mod trainer;

pub use crate::progress::Progress;
pub use checkpoint::{Checkpoint, CheckpointFolder};
pub use chunks::{average_chunks, check_chunk, contrast_views};
pub use config::TrainConfig;
pub use grad_cache::grad_cache;
pub use method::{Branch, Method, StepOutput};
pub use monitors::{CollapseMonitor, ProbeMonitor};
pub use observer::{EpochRecord, Notes, Observer, StepRecord};
pub use run_dir::{RunDir, RunLog};
pub use stack::with_big_stack;
pub use trainer::{Outcome, Trainer, export_encoder};

#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod rank_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod toy;
