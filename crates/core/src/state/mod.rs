//! State that methods own beside their parameters: momentum encoders, queues, memory banks. Each is saved and restored
//! by name through [`crate::train::Method::state`].

mod bank;
mod ema;
mod momentum;
mod noise;
mod queue;

pub use bank::MemoryBank;
pub use ema::{Buffers, ema_update};
pub use momentum::Momentum;
pub use noise::bank_rows;
pub use queue::Queue;

use std::collections::HashMap;

use candle_core::Tensor;

use crate::{Error, Result};

/// A number that a method saved as a tensor of one `u32`.
///
/// # Errors
/// A missing name or another shape.
pub fn scalar(state: &HashMap<String, Tensor>, name: &str) -> Result<u32> {
    match momentum::saved(state, name, &[1])?.to_vec1::<u32>()?.first() {
        Some(value) => Ok(*value),
        None => Err(Error::data(name, "missing in the saved state")),
    }
}
