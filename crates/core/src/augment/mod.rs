//! torchvision-exact image operations on plain buffers, and recipes one can print.

mod image;

pub use image::Image;
