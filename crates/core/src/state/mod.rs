//! State that methods own beside their parameters.

mod ema;

pub use ema::{Buffers, ema_update};
