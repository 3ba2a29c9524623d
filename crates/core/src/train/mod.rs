//! The one training loop. It knows [`Method`] and no method.

mod method;

pub use method::{Branch, Method, Progress, StepOutput};
