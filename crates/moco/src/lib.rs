//! MoCo.
