//! Short forms of operations, so that a published recipe reads as a list.

use super::{
    BlurKernel, CIFAR_MEAN, CIFAR_STD_PER_IMAGE, IMAGENET_MEAN, IMAGENET_STD, Interpolation, Op, ViewRecipe,
};

/// A random crop of `scale` of the area, to `size` x `size`, bilinear (torchvision's default).
pub fn crop(size: usize, scale: [f64; 2]) -> Op {
    Op::RandomResizedCrop {
        size,
        scale,
        ratio: [3.0 / 4.0, 4.0 / 3.0],
        interpolation: Interpolation::Bilinear,
    }
}

/// The same, bicubic.
pub fn bicubic_crop(size: usize, scale: [f64; 2]) -> Op {
    Op::RandomResizedCrop {
        size,
        scale,
        ratio: [3.0 / 4.0, 4.0 / 3.0],
        interpolation: Interpolation::Bicubic,
    }
}

/// A mirror image half of the time.
pub fn flip() -> Op {
    Op::RandomFlip { p: 0.5 }
}

/// Brightness, contrast, saturation and hue, with probability `p`.
pub fn jitter([brightness, contrast, saturation, hue]: [f64; 4], p: f64) -> Op {
    Op::ColorJitter { brightness, contrast, saturation, hue, p }
}

/// Gray with probability 0.2.
pub fn gray() -> Op {
    Op::RandomGrayscale { p: 0.2 }
}

/// Pillow's Gaussian blur of σ in `[0.1, 2]` with probability `p`.
pub fn blur(p: f64) -> Op {
    Op::RandomBlur { p, sigma: [0.1, 2.0], kernel: BlurKernel::Pil }
}

/// Solarisation from 128 up with probability `p`.
pub fn solarize(p: f64) -> Op {
    Op::RandomSolarize { p, threshold: 128 }
}

/// Channels normalised by `mean` and `std`.
pub fn normalize(mean: [f32; 3], std: [f32; 3]) -> Op {
    Op::Normalize { mean: mean.to_vec(), std: std.to_vec() }
}

/// ImageNet's normalisation.
pub fn imagenet() -> Op {
    normalize(IMAGENET_MEAN, IMAGENET_STD)
}

/// The normalisation of most published CIFAR recipes.
pub fn cifar() -> Op {
    normalize(CIFAR_MEAN, CIFAR_STD_PER_IMAGE)
}

/// `count` views of this name.
pub fn view(name: &str, count: usize, ops: impl Into<Vec<Op>>) -> ViewRecipe {
    ViewRecipe { name: name.into(), count, ops: ops.into() }
}
