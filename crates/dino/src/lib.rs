//! DINO.
