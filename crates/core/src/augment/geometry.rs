//! Crops and flips.

use super::Image;
use crate::rng::Stream;
use crate::{Error, Result};

/// A crop in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl CropBox {
    /// The whole image.
    pub fn whole(image: &Image) -> Self {
        Self { x: 0, y: 0, width: image.width, height: image.height }
    }

    /// Refuses a crop that is empty or not inside `image`.
    pub(super) fn check(self, image: &Image) -> Result<()> {
        let inside = self.x.checked_add(self.width).is_some_and(|right| right <= image.width)
            && self.y.checked_add(self.height).is_some_and(|bottom| bottom <= image.height);
        if inside && self.width > 0 && self.height > 0 {
            return Ok(());
        }
        let Self { x, y, width, height } = self;
        Err(Error::shape(
            "crop",
            format!("an image that holds the {width}x{height} box at ({x}, {y})"),
            &[image.height, image.width, image.channels],
        ))
    }
}

/// Cuts a crop out.
///
/// # Errors
/// A crop that is empty or not inside the image.
pub fn crop(image: &Image, area: CropBox) -> Result<Image> {
    area.check(image)?;
    let (c, stride) = (image.channels, image.width * image.channels);
    let rows = image.data.chunks_exact(stride).skip(area.y).take(area.height);
    let mut data = Vec::with_capacity(area.width * area.height * c);
    rows.for_each(|row| data.extend_from_slice(&row[area.x * c..(area.x + area.width) * c]));
    Image::new(area.width, area.height, c, data)
}

/// The central `side` x `side` crop; a smaller image is first padded with zeros on both sides (torchvision's
/// `CenterCrop`).
///
/// # Errors
/// `side` = 0 or above 16384.
pub fn center_crop(image: &Image, side: usize) -> Result<Image> {
    if !(1..=16384).contains(&side) {
        return Err(Error::config("size", format!("{side} is not in 1..=16384")));
    }
    // (first source pixel, first target pixel, count) along one axis. torchvision rounds half a pixel to even when it
    // cuts and puts the odd pixel of padding behind.
    let axis = |length: usize| {
        if length < side {
            (0, (side - length) / 2, length)
        } else {
            (((length - side) as f64 / 2.0).round_ties_even() as usize, 0, side)
        }
    };
    let ((sx, tx, columns), (sy, ty, rows)) = (axis(image.width), axis(image.height));
    let c = image.channels;
    let mut data = vec![0u8; side * side * c];
    let source = image.data.chunks_exact(image.width * c).skip(sy).take(rows);
    for (from, to) in source.zip(data.chunks_exact_mut(side * c).skip(ty)) {
        to[tx * c..(tx + columns) * c].copy_from_slice(&from[sx * c..(sx + columns) * c]);
    }
    Image::new(side, side, c, data)
}

/// Mirrors left and right, in place.
pub fn flip_horizontal(image: &mut Image) {
    let c = image.channels;
    for row in image.data.chunks_exact_mut(image.width * c) {
        if c == 3 {
            row.as_chunks_mut::<3>().0.reverse();
        } else {
            row.reverse();
        }
    }
}

/// Draws the crop of `RandomResizedCrop` (torchvision's `get_params`): up to ten tries of an area uniform in `scale`
/// (shares of the image) and an aspect ratio log-uniform in `ratio` (width / height), each placed uniformly when it
/// fits; otherwise the largest central crop whose ratio lies in `ratio`.
///
/// Draws per try: area, ratio; then row and column of the crop that fits.
pub fn random_resized_crop_box(
    width: usize,
    height: usize,
    scale: [f64; 2],
    ratio: [f64; 2],
    stream: &mut Stream,
) -> CropBox {
    let area = (width * height) as f64;
    let log_ratio = ratio.map(f64::ln);
    for _ in 0..10 {
        let target = area * stream.uniform(scale[0], scale[1]);
        let aspect = stream.uniform(log_ratio[0], log_ratio[1]).exp();
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let y = stream.below((height - h + 1) as u64) as usize;
            let x = stream.below((width - w + 1) as u64) as usize;
            return CropBox { x, y, width: w, height: h };
        }
    }
    let own = width as f64 / height as f64;
    let (mut w, mut h) = (width, height);
    if own < ratio[0] {
        h = ((width as f64 / ratio[0]).round_ties_even() as usize).clamp(1, height);
    } else if own > ratio[1] {
        w = ((height as f64 * ratio[1]).round_ties_even() as usize).clamp(1, width);
    }
    CropBox { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h }
}
