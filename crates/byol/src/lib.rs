//! BYOL.
