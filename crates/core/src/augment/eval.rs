//! The deterministic transforms of evaluation.

use serde::{Deserialize, Serialize};

use super::recipe::check_normalization;
use super::{ColorSpace, Image, Interpolation, center_crop, resize_shorter, to_array};
use crate::data::{Array, Transform};
use crate::rng::Key;
use crate::{Error, Result};

/// Resize the shorter side, crop the centre, normalise; every step can be left out (32 x 32 sets need only the last).
/// As a [`Transform`] it gives one `[C, H, W]` array and draws nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalTransform {
    /// Shorter side after resizing, in pixels.
    pub resize: Option<usize>,
    /// Side of the central crop, in pixels.
    pub crop: Option<usize>,
    /// The filter of the resize.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// What the output channels are.
    #[serde(default)]
    pub color: ColorSpace,
    /// One mean per output channel.
    pub mean: Vec<f32>,
    /// One standard deviation per output channel.
    pub std: Vec<f32>,
}

impl EvalTransform {
    /// Images as they are (all of one size), normalised.
    pub fn as_is(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self {
            resize: None,
            crop: None,
            interpolation: Interpolation::Bilinear,
            color: ColorSpace::Rgb,
            mean: mean.to_vec(),
            std: std.to_vec(),
        }
    }

    /// Shorter side to `resize`, the central `crop` x `crop`, normalised (ImageNet's 256 and 224).
    pub fn resize_crop(resize: usize, crop: usize, mean: [f32; 3], std: [f32; 3]) -> Self {
        Self { resize: Some(resize), crop: Some(crop), ..Self::as_is(mean, std) }
    }

    /// Refuses values that make no sense.
    ///
    /// # Errors
    /// [`Error::Config`] for the first fault, its key starting with `root`.
    pub fn check(&self, root: &str) -> Result<()> {
        for (field, size) in [("resize", self.resize), ("crop", self.crop)] {
            if let Some(size) = size.filter(|size| !(1..=8192).contains(size)) {
                return Err(Error::config(format!("{root}.{field}"), format!("{size} is not in 1..=8192")));
            }
        }
        check_normalization(root, &self.mean, &self.std, self.color.channels())
    }
}

impl Transform<Image> for EvalTransform {
    fn apply(&self, sample: &Image, _key: Key) -> Result<Vec<Array>> {
        sample.check()?;
        let normalization = Some((self.mean.as_slice(), self.std.as_slice()));
        let resized = self.resize.map(|side| resize_shorter(sample, side, self.interpolation)).transpose()?;
        let image = resized.as_ref().unwrap_or(sample);
        let cropped = self.crop.map(|side| center_crop(image, side)).transpose()?;
        Ok(vec![to_array(cropped.as_ref().unwrap_or(image), self.color, normalization)?])
    }
}
