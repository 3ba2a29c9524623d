//! SwAV.
