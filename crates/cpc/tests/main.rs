//! What every method is held to, on speech, on images, on text and in environments.

// Helpers outside `#[test]` functions may stop a test too.
#![allow(clippy::expect_used)]

mod images;
mod rl;
mod speech;
mod text;
