//! Running a recipe on a sample.

use std::borrow::Cow;

use super::blur::taps_for;
use super::{
    BlurKernel, CropBox, Image, Op, Recipe, ViewRecipe, adjust_brightness, adjust_contrast, adjust_hue,
    adjust_saturation, center_crop, flip_horizontal, grayscale, pil_blur, random_resized_crop_box,
    resize_crop, resize_shorter, solarize, to_array, true_blur,
};
use crate::Result;
use crate::data::{Array, Transform};
use crate::rng::{Key, Purpose, Stream};

/// Arrays are `[C, H, W]` with C of the recipe's [`super::ColorSpace`].
///
/// Errors are an image whose buffer does not fit its sides, and a result above 1 GiB.
impl Transform<Image> for Recipe {
    fn apply(&self, sample: &Image, key: Key) -> Result<Vec<Array>> {
        sample.check()?;
        let views = self.views.iter().flat_map(|view| std::iter::repeat_n(view, view.count));
        views.enumerate().map(|(v, view)| self.view(view, sample, key.view(v as u64))).collect()
    }
}

impl Recipe {
    fn view(&self, view: &ViewRecipe, sample: &Image, key: Key) -> Result<Array> {
        let mut words = key.stream();
        let mut image = Cow::Borrowed(sample);
        let mut normalization = None;
        for op in &view.ops {
            let mut stream = Key::new(words.bits(), Purpose::Augment).stream();
            match op {
                Op::Normalize { mean, std } => normalization = Some((mean.as_slice(), std.as_slice())),
                _ => op.run(&mut image, &mut stream)?,
            }
        }
        to_array(&image, self.color, normalization)
    }
}

impl Op {
    /// Runs on bytes; [`Op::Normalize`] is none of these and does nothing.
    fn run(&self, image: &mut Cow<'_, Image>, stream: &mut Stream) -> Result<()> {
        match self {
            Self::RandomResizedCrop { size, scale, ratio, interpolation } => {
                let area = random_resized_crop_box(image.width, image.height, *scale, *ratio, stream);
                *image = Cow::Owned(resize_crop(image, area, *size, *size, *interpolation)?);
            }
            Self::RandomFlip { p } => {
                if stream.chance(*p) {
                    flip_horizontal(image.to_mut());
                }
            }
            Self::ColorJitter { brightness, contrast, saturation, hue, p } => {
                if stream.chance(*p) {
                    jitter(image.to_mut(), [*brightness, *contrast, *saturation], *hue, stream);
                }
            }
            Self::RandomGrayscale { p } => {
                if stream.chance(*p) {
                    grayscale(image.to_mut());
                }
            }
            Self::RandomBlur { p, sigma: [low, high], kernel } => {
                if stream.chance(*p) {
                    let sigma = stream.uniform(*low, *high);
                    match kernel {
                        BlurKernel::Pil => pil_blur(image.to_mut(), sigma)?,
                        BlurKernel::True => {
                            let taps = taps_for(image);
                            true_blur(image.to_mut(), taps, sigma)?;
                        }
                    }
                }
            }
            Self::RandomSolarize { p, threshold } => {
                if stream.chance(*p) {
                    solarize(image.to_mut(), *threshold);
                }
            }
            Self::Resize { size, interpolation } => {
                *image = Cow::Owned(resize_shorter(image, *size, *interpolation)?);
            }
            Self::CenterCrop { size } => *image = Cow::Owned(center_crop(image, *size)?),
            Self::Normalize { .. } => {}
        }
        Ok(())
    }
}

fn jitter(image: &mut Image, strengths: [f64; 3], hue: f64, stream: &mut Stream) {
    let mut order = [0usize, 1, 2, 3];
    stream.shuffle(&mut order);
    let factors = strengths.map(|x| stream.uniform((1.0 - x).max(0.0), 1.0 + x));
    let shift = stream.uniform(-hue, hue);
    let [brightness, contrast, saturation] = strengths;
    for part in order {
        match part {
            0 if brightness > 0.0 => adjust_brightness(image, factors[0]),
            1 if contrast > 0.0 => adjust_contrast(image, factors[1]),
            2 if saturation > 0.0 => adjust_saturation(image, factors[2]),
            3 if hue > 0.0 => adjust_hue(image, shift),
            _ => {}
        }
    }
}

impl Image {
    /// The fields are public, so the buffer may not fit the sides.
    pub(super) fn check(&self) -> Result<()> {
        CropBox::whole(self).check(self)?;
        let fits =
            matches!(self.channels, 1 | 3) && self.data.len() == self.width * self.height * self.channels;
        if fits {
            return Ok(());
        }
        let expected = format!("[H, W, 1 or 3] with {} bytes", self.data.len());
        Err(crate::Error::shape("image", expected, &[self.height, self.width, self.channels]))
    }
}
