//! Instruments that see a collapse coming.
//!
//! [`Embeddings`] has the measures: spread, dead dimensions, effective rank, alignment and uniformity;
//! [`information`] measures what distributions say of their samples. A [`Collapse`] monitor takes both of a step, compares the measures with thresholds and says in words what it saw, what
//! it means and what to try. All of it runs on the host in f64 and gives the same bits for any number of threads.

mod assignments;
mod collapse;
mod eigen;
mod embeddings;
#[cfg(test)]
mod tests;

pub use assignments::information;
pub use collapse::{Collapse, CollapseConfig, CollapseState, Report, Warning, WarningKind};
pub use embeddings::Embeddings;
