//! InvaSpread.
