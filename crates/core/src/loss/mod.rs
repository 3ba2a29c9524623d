//! Losses: pure functions over tensors. They own no state and read no file.
