//! CMC on scenes of any number of views (sections 3.3 and 4.4 of the paper): pictures and depths, normals, labels, frames
//! and motion, or whatever aligned columns a user brings.
//!
//! | file | holds |
//! | --- | --- |
//! | [`scene`] | a scene as named views; sets of scenes; the window that all views are cropped by |
//! | [`folder`] | folders of RGB-D pictures (feature `data`) |
//! | [`config`] | which views, networks and task |
//! | [`model`] | a small convolutional encoder for each view; the U-shaped decoder |
//! | [`method`] | contrasting views, or predicting one from another, as the training loop sees it |
//! | [`segment`] | what a frozen encoder says of every pixel: pixel accuracy and mIoU |
//! | [`recipe`] | presets |
//! | [`rooms`] | furnished rooms as scenes (feature `rooms`) |
//! | [`distance`] | two patches of one picture, so far apart; what they share (feature `data`) |

pub mod config;
#[cfg(feature = "data")]
pub mod distance;
#[cfg(feature = "data")]
pub mod folder;
pub mod method;
pub mod model;
pub mod recipe;
#[cfg(feature = "rooms")]
pub mod rooms;
#[cfg(feature = "data")]
pub mod run;
pub mod scene;
pub mod segment;

pub use config::{Between, Task, ViewsConfig, ViewsRun};
pub use method::ViewsCmc;
pub use scene::{Scene, Scenes, View, Window};
