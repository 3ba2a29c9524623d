//! From bytes to the network's floats.

use serde::{Deserialize, Serialize};

use super::color::luma;
use super::dispatch::vectorised;
use super::Image;
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
}

impl ColorSpace {
    /// The number of output channels.
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb => 3,
            Self::Gray => 1,
        }
    }
}

/// Mean and standard deviation per channel.
pub(super) type Normalization<'a> = (&'a [f32], &'a [f32]);

#[inline(always)]
fn plane_kernel(data: &[u8], stride: usize, mean: f32, std: f32, out: &mut [f32]) {
    // Divisions, not products with the inverse: torchvision's bits.
    let convert = |v: u8| (f32::from(v) / 255.0 - mean) / std;
    match stride {
        1 => out.iter_mut().zip(data).for_each(|(out, &v)| *out = convert(v)),
        3 => {
            // Gathering first leaves a loop without stride to vectorise.
            let mut bytes = [0u8; 64];
            for (out, pixels) in out.chunks_mut(64).zip(data.chunks(64 * 3)) {
                for (byte, &v) in bytes.iter_mut().zip(pixels.iter().step_by(3)) {
                    *byte = v;
                }
                out.iter_mut().zip(&bytes).for_each(|(out, &v)| *out = convert(v));
            }
        }
        _ => {}
    }
}

vectorised!(fn plane = plane_kernel(data: &[u8], stride: usize, mean: f32, std: f32, out: &mut [f32]));

/// The image as `[C, H, W]` floats: `(value / 255 - mean) / std`, or `value / 255` without a normalisation
/// (torchvision's `ToTensor` and `Normalize`).
///
/// # Errors
/// A mean or standard deviation whose length is not `space.channels()`.
pub fn to_array(image: &Image, space: ColorSpace, normalization: Option<(&[f32], &[f32])>) -> Result<Array> {
    let channels = space.channels();
    let (mean, std): Normalization = normalization.unwrap_or((&[0.0; 3][..channels], &[1.0; 3][..channels]));
    if mean.len() != channels || std.len() != channels {
        let expected = format!("{channels} means and standard deviations");
        return Err(Error::shape("normalize", expected, &[mean.len(), std.len()]));
    }
    let gray;
    let image = if channels == 1 && image.channels == 3 {
        let data = image.data.as_chunks::<3>().0.iter().map(|&pixel| luma(pixel)).collect();
        gray = Image { channels: 1, data, ..*image };
        &gray
    } else {
        image
    };
    let area = image.width * image.height;
    let mut data = vec![0.0; channels * area];
    for (c, out) in data.chunks_exact_mut(area).enumerate() {
        let offset = if image.channels == 3 { c } else { 0 };
        plane(&image.data[offset..], image.channels, mean[c], std[c], out);
    }
    Ok(Array { shape: vec![channels, image.height, image.width], data })
}
