//! From bytes to the network's floats.

use serde::{Deserialize, Serialize};

use super::Image;
use super::color::luma;
use super::dispatch::vectorised;
use super::split::{self, rgb_to_lab, rgb_to_ycbcr, rgb_to_ydbdr};
use crate::data::Array;
use crate::{Error, Result};

/// ImageNet's channel means.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];
/// SwAV's variant of [`IMAGENET_STD`]: red differs in the last digit.
pub const SWAV_STD: [f32; 3] = [0.228, 0.224, 0.225];
/// CIFAR-10's channel means.
pub const CIFAR_MEAN: [f32; 3] = [0.4914, 0.4822, 0.4465];
/// CIFAR-10's channel standard deviations over all pixels.
pub const CIFAR_STD: [f32; 3] = [0.2470, 0.2435, 0.2616];
/// The mean over CIFAR-10's images of each image's own standard deviation: smaller than [`CIFAR_STD`], and what most
/// published CIFAR recipes (InstDisc, MoCo's notebook, lightly) divide by.
pub const CIFAR_STD_PER_IMAGE: [f32; 3] = [0.2023, 0.1994, 0.2010];

/// What the output channels are. Operations run on RGB (or gray) bytes; the conversion is the last step before the
/// floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ColorSpace {
    /// Three channels; a gray image is copied to all.
    #[default]
    Rgb,
    /// One channel, the luma.
    Gray,
    /// CIE Lab ([`super::rgb_to_lab`]). Means and deviations are in its own units, not in parts of 255.
    Lab,
    /// YCbCr ([`super::rgb_to_ycbcr`]), likewise.
    #[serde(rename = "ycbcr")]
    YCbCr,
    /// YDbDr ([`super::rgb_to_ydbdr`]), likewise.
    #[serde(rename = "ydbdr")]
    YDbDr,
}

impl ColorSpace {
    /// The number of output channels.
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb | Self::Lab | Self::YCbCr | Self::YDbDr => 3,
            Self::Gray => 1,
        }
    }

    /// How a pixel is converted where brightness and colour are taken apart.
    fn conversion(self) -> Option<fn([u8; 3]) -> [f64; 3]> {
        match self {
            Self::Rgb | Self::Gray => None,
            Self::Lab => Some(rgb_to_lab),
            Self::YCbCr => Some(rgb_to_ycbcr),
            Self::YDbDr => Some(rgb_to_ydbdr),
        }
    }
}

#[inline(always)]
fn plane_kernel(bytes: &[u8], mean: f32, std: f32, out: &mut [f32]) {
    for (out, &v) in out.iter_mut().zip(bytes) {
        // Divisions, not products with the inverse: torchvision's bits.
        *out = (f32::from(v) / 255.0 - mean) / std;
    }
}

#[inline(always)]
fn planes_kernel(data: &[u8], mean: &[f32], std: &[f32], out: &mut [f32]) {
    const BLOCK: usize = 64;
    let area = out.len() / 3;
    for (block, pixels) in data.as_chunks::<3>().0.chunks(BLOCK).enumerate() {
        // Taking the channels apart first leaves loops without stride to vectorise.
        let mut bytes = [[0u8; BLOCK]; 3];
        let [r, g, b] = &mut bytes;
        for ((pixel, r), (g, b)) in pixels.iter().zip(r).zip(g.iter_mut().zip(b)) {
            [*r, *g, *b] = *pixel;
        }
        for (c, bytes) in bytes.iter().enumerate() {
            let start = c * area + block * BLOCK;
            plane_kernel(bytes, mean[c], std[c], &mut out[start..start + pixels.len()]);
        }
    }
}

vectorised!(fn plane = plane_kernel(bytes: &[u8], mean: f32, std: f32, out: &mut [f32]));
vectorised!(fn planes = planes_kernel(data: &[u8], mean: &[f32], std: &[f32], out: &mut [f32]));

/// The image as `[C, H, W]` floats: `(value / 255 - mean) / std`, or `value / 255` without a normalisation
/// (torchvision's `ToTensor` and `Normalize`). Spaces that take brightness and colour apart have units of their own and
/// are not divided by 255.
///
/// # Errors
/// A mean or standard deviation whose length is not `space.channels()`.
pub fn to_array(image: &Image, space: ColorSpace, normalization: Option<(&[f32], &[f32])>) -> Result<Array> {
    let channels = space.channels();
    let (mean, std) = normalization.unwrap_or((&[0.0; 3][..channels], &[1.0; 3][..channels]));
    if mean.len() != channels || std.len() != channels {
        let expected = format!("{channels} means and standard deviations");
        return Err(Error::shape("normalize", expected, &[mean.len(), std.len()]));
    }
    let area = image.width * image.height;
    let mut data = vec![0.0; channels * area];
    if let Some(convert) = space.conversion() {
        let image = image.to_rgb();
        split::planes(image.data.as_chunks::<3>().0, convert, mean, std, &mut data);
        return Ok(Array { shape: vec![channels, image.height, image.width], data });
    }
    match (image.channels, channels) {
        (3, 3) => planes(&image.data, mean, std, &mut data),
        (3, _) => {
            let gray: Vec<u8> = image.data.as_chunks::<3>().0.iter().map(|&pixel| luma(pixel)).collect();
            plane(&gray, mean[0], std[0], &mut data);
        }
        _ => {
            for ((out, &mean), &std) in data.chunks_exact_mut(area).zip(mean).zip(std) {
                plane(&image.data, mean, std, out);
            }
        }
    }
    Ok(Array { shape: vec![channels, image.height, image.width], data })
}
