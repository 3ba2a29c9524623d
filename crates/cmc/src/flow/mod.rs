//! Optical flow as a view: TV-L1 between frames, and the stacks of ten fields that CMC's video networks see (section 4.3 of
//! the paper).
//!
//! | file | holds |
//! | --- | --- |
//! | [`plane`] | gray planes: smoothing, halving, warping, gradients |
//! | [`tvl1`] | the flow between two planes |
//! | [`clips`] | videos as folders of frames (feature `data`) |
//! | [`video`] | frames contrasted with later frames or with motion (feature `data`) |
//! | [`recipe`] | presets of it (feature `data`) |
//! | [`mod@stack`] | fields around a moment of a clip as one array of 20 channels |

#[cfg(feature = "data")]
pub mod clips;
pub mod plane;
#[cfg(feature = "data")]
pub mod recipe;
pub mod stack;
pub mod tvl1;
#[cfg(feature = "data")]
pub mod video;

pub use plane::Plane;
pub use stack::{FIELDS, stack};
pub use tvl1::{Field, TvL1};
