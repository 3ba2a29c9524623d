//! InstDisc.
