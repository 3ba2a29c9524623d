//! Gray planes in f32: what an optical flow computes on.

use contrastive_core::augment::{Image, luma};
use contrastive_core::{Error, Result};

/// A gray picture, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The values, 0 to 255.
    pub data: Vec<f32>,
}

impl Plane {
    /// A plane of so many values.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of values or a side of 0.
    pub fn new(width: usize, height: usize, data: Vec<f32>) -> Result<Self> {
        if width == 0 || height == 0 || data.len() != width * height {
            return Err(Error::shape(
                "plane",
                format!("[H, W] with {} values", data.len()),
                &[height, width],
            ));
        }
        Ok(Self { width, height, data })
    }

    /// The luma of an image.
    ///
    /// # Errors
    /// A buffer that does not fit its sides.
    pub fn of(image: &Image) -> Result<Self> {
        let rgb = image.to_rgb();
        let data = rgb.data.as_chunks::<3>().0.iter().map(|&pixel| f32::from(luma(pixel))).collect();
        Self::new(image.width, image.height, data)
    }

    /// The value at a place; beyond the border that of the nearest pixel.
    pub fn at(&self, x: isize, y: isize) -> f32 {
        let x = x.clamp(0, self.width as isize - 1) as usize;
        let y = y.clamp(0, self.height as isize - 1) as usize;
        self.data[y * self.width + x]
    }

    /// Convolved with a Gaussian of this deviation in pixels.
    pub fn smoothed(&self, sigma: f32) -> Self {
        let radius = (4.0 * sigma).ceil().max(1.0) as isize;
        let taps: Vec<f32> =
            (-radius..=radius).map(|i| (-(i * i) as f32 / (2.0 * sigma * sigma)).exp()).collect();
        let sum: f32 = taps.iter().sum();
        let along = |plane: &Self, step: fn(isize) -> (isize, isize)| {
            plane.mapped(|x, y| {
                let value = |(i, tap): (usize, &f32)| {
                    let (dx, dy) = step(i as isize - radius);
                    tap * plane.at(x + dx, y + dy)
                };
                taps.iter().enumerate().map(value).sum::<f32>() / sum
            })
        };
        along(&along(self, |i| (i, 0)), |i| (0, i))
    }

    /// Of half the sides, rounded up: smoothed, then every second place.
    pub fn halved(&self) -> Self {
        // What makes the spectrum fit (Sánchez, Meinhardt-Llopis, Facciolo 2013).
        let smooth = self.smoothed(0.6 * 3f32.sqrt());
        smooth.resampled(self.width.div_ceil(2), self.height.div_ceil(2))
    }

    /// Of other sides, by bicubic interpolation; pixel middles keep their places.
    pub fn resampled(&self, width: usize, height: usize) -> Self {
        let (fx, fy) = (self.width as f32 / width as f32, self.height as f32 / height as f32);
        let mut data = Vec::with_capacity(width * height);
        for y in 0..height {
            for x in 0..width {
                data.push(self.bicubic((x as f32 + 0.5) * fx - 0.5, (y as f32 + 0.5) * fy - 0.5));
            }
        }
        Self { width, height, data }
    }

    /// The value between pixels (Keys 1981, a = -1/2).
    pub fn bicubic(&self, x: f32, y: f32) -> f32 {
        let (left, top) = (x.floor(), y.floor());
        let (wx, wy) = (weights(x - left), weights(y - top));
        let (left, top) = (left as isize - 1, top as isize - 1);
        let row = |j: isize| (0..4).map(|i| wx[i as usize] * self.at(left + i, top + j)).sum::<f32>();
        (0..4).map(|j| wy[j as usize] * row(j)).sum()
    }

    /// Central differences in both directions.
    pub fn gradient(&self) -> [Self; 2] {
        [
            self.mapped(|x, y| 0.5 * (self.at(x + 1, y) - self.at(x - 1, y))),
            self.mapped(|x, y| 0.5 * (self.at(x, y + 1) - self.at(x, y - 1))),
        ]
    }

    /// A plane of the same sides from a value for each place.
    pub(super) fn mapped(&self, f: impl Fn(isize, isize) -> f32) -> Self {
        let mut data = Vec::with_capacity(self.data.len());
        for y in 0..self.height as isize {
            for x in 0..self.width as isize {
                data.push(f(x, y));
            }
        }
        Self { data, ..*self }
    }
}

fn weights(t: f32) -> [f32; 4] {
    let (t2, t3) = (t * t, t * t * t);
    [-0.5 * t + t2 - 0.5 * t3, 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, -0.5 * t2 + 0.5 * t3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_stays_a_ramp() -> Result<()> {
        let data = (0..12 * 10).map(|i| (i % 12) as f32 * 2.0).collect();
        let ramp = Plane::new(12, 10, data)?;
        assert!((ramp.bicubic(4.25, 5.5) - 8.5).abs() < 1e-4);
        let [dx, dy] = ramp.gradient();
        assert!((dx.at(5, 5) - 2.0).abs() < 1e-6 && dy.data.iter().all(|v| v.abs() < 1e-6));
        let half = ramp.halved();
        assert_eq!((half.width, half.height), (6, 5));
        assert!((half.at(3, 2) - half.at(2, 2) - 4.0).abs() < 0.05);
        assert!(Plane::new(3, 3, vec![0.0; 8]).is_err());
        Ok(())
    }
}
