//! CRD: *Contrastive Representation Distillation* (Tian, Krishnan, Isola, ICLR 2020): CMC's objective with a teacher's and
//! a student's features of one image as the two views.
//!
//! ```text
//! L = γ CE(student, label) + α T² KL(teacher/T ‖ student/T) + β (L(S→T) + L(T→S))
//! ```
//!
//! `L(S→T)` is NCE over the teacher's bank, with negatives of *other classes* only. Both sides have a trained linear
//! embedding of unit length, so both need a bank.
//!
//! | file | holds |
//! | --- | --- |
//! | [`config`] | networks, weights of the terms, presets |
//! | [`loss`] | distillation of logits |
//! | [`negatives`] | rows of other classes |
//! | [`method`] | a classifier, and one that learns from another |
//!
//! # Departures from the paper and the official code
//! - NCE is a softplus of logits, without the `1e-7` beside denominators.
//! - Negatives are drawn from one stream for each sample and step.

pub mod config;
pub mod loss;
pub mod method;
pub mod negatives;

pub use config::{CrdConfig, Terms};
pub use method::{Classifier, Crd};
