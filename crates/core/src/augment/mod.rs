//! torchvision-exact image operations on plain buffers, and recipes one can print.
//!
//! The operations work on 8-bit images and give the bytes that Pillow (through torchvision's PIL path) gives, because
//! published recipes were tuned on those bytes: fixed-point resizing with antialiasing, blends that truncate, the
//! lossy 8-bit HSV round trip. A [`Recipe`] lists operations per view, draws from keyed streams and is a
//! [`crate::data::Transform`]; an [`EvalTransform`] is its deterministic counterpart.

mod apply;
mod blur;
mod color;
mod dispatch;
mod eval;
mod geometry;
mod hsv;
mod image;
mod normalize;
pub mod ops;
mod recipe;
mod resize;
mod split;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;

pub use blur::{BlurKernel, pil_blur, true_blur};
pub use color::{
    adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, grayscale, luma, solarize,
};
pub use eval::EvalTransform;
pub use geometry::{CropBox, center_crop, crop, flip_horizontal, random_resized_crop_box};
pub use image::Image;
pub use normalize::{
    CIFAR_MEAN, CIFAR_STD, CIFAR_STD_PER_IMAGE, ColorSpace, IMAGENET_MEAN, IMAGENET_STD, SWAV_STD, to_array,
};
pub use recipe::{Op, Recipe, ViewRecipe};
pub use resize::{Interpolation, resize, resize_box, resize_crop, resize_shorter};
pub use split::{rgb_to_lab, rgb_to_ycbcr, rgb_to_ydbdr};
