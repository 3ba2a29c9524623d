//! TV-L1 optical flow: Zach, Pock, Bischof, *A Duality Based Approach for Realtime TV-L1 Optical Flow* (2007), with the
//! settings of its published description (Sánchez, Meinhardt-Llopis, Facciolo, IPOL 2013).
//!
//! The flow u minimises `∫ |∇u₁| + |∇u₂| + λ |I₁(x + u) − I₀(x)|`. The second frame is warped by the flow so far and
//! taken as linear around it; an auxiliary field v, held to u by `(u − v)² / 2θ`, parts the two terms: v by a threshold
//! at each pixel, u by Chambolle's dual iteration. Coarse to fine.

use contrastive_core::{Error, Result};

use super::plane::Plane;

/// Settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TvL1 {
    /// λ, the weight of the data for values in 0 to 255: 0.15.
    pub lambda: f32,
    /// θ, how loosely u and v are held together: 0.3.
    pub theta: f32,
    /// Step of the dual iteration: 0.25.
    pub tau: f32,
    /// Scales at most, each of half the sides: 5. A scale below 16 pixels is left out.
    pub scales: usize,
    /// Warps on each scale: 5.
    pub warps: usize,
    /// Iterations of a warp at most: 60.
    pub iterations: usize,
    /// A warp ends when the mean squared change of u in an iteration falls below the square of this: 0.01.
    pub tolerance: f32,
}

impl Default for TvL1 {
    fn default() -> Self {
        Self { lambda: 0.15, theta: 0.3, tau: 0.25, scales: 5, warps: 5, iterations: 60, tolerance: 0.01 }
    }
}

/// Motion to the right and down for each pixel, in pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// To the right.
    pub x: Plane,
    /// Down.
    pub y: Plane,
}

/// Least side of a scale.
const LEAST: usize = 16;

impl TvL1 {
    /// Where the pixels of `first` go in `second`.
    ///
    /// # Errors
    /// [`Error::Shape`] for planes of different sides, [`Error::Config`] for settings that are not positive.
    pub fn flow(&self, first: &Plane, second: &Plane) -> Result<Field> {
        if (first.width, first.height) != (second.width, second.height) {
            let expected = format!("[{}, {}]", first.height, first.width);
            return Err(Error::shape("optical flow", expected, &[second.height, second.width]));
        }
        let positive =
            [self.lambda, self.theta, self.tau, self.tolerance].iter().all(|v| *v > 0.0 && v.is_finite());
        if !positive || self.scales == 0 || self.warps == 0 || self.iterations == 0 {
            return Err(Error::config("flow", format!("every setting must be above 0, got {self:?}")));
        }
        let mut pyramid = vec![[first.smoothed(0.8), second.smoothed(0.8)]];
        while let Some([a, b]) = pyramid.last() {
            if pyramid.len() == self.scales || a.width.min(a.height) < 2 * LEAST {
                break;
            }
            let next = [a.halved(), b.halved()];
            pyramid.push(next);
        }
        let mut field: Option<Field> = None;
        for [a, b] in pyramid.iter().rev() {
            let start = match field {
                None => Field { x: a.mapped(|_, _| 0.0), y: a.mapped(|_, _| 0.0) },
                Some(coarse) => {
                    let finer = |plane: &Plane, from: usize, to: usize| {
                        let mut finer = plane.resampled(a.width, a.height);
                        finer.data.iter_mut().for_each(|v| *v *= to as f32 / from as f32);
                        finer
                    };
                    Field {
                        x: finer(&coarse.x, coarse.x.width, a.width),
                        y: finer(&coarse.y, coarse.y.height, a.height),
                    }
                }
            };
            field = Some(self.scale(a, b, start));
        }
        field.ok_or_else(|| Error::config("flow.scales", "must be at least 1"))
    }

    /// The flow on one scale, from a first guess.
    fn scale(&self, first: &Plane, second: &Plane, start: Field) -> Field {
        let [gradient_x, gradient_y] = second.gradient();
        let (mut u, mut v) = (start.x, start.y);
        // The dual variables of both parts.
        let mut p: [Plane; 4] = std::array::from_fn(|_| first.mapped(|_, _| 0.0));
        let area = first.data.len();
        for _ in 0..self.warps {
            let warp = |plane: &Plane| {
                plane.mapped(|x, y| {
                    let i = y as usize * plane.width + x as usize;
                    plane.bicubic(x as f32 + u.data[i], y as f32 + v.data[i])
                })
            };
            let (warped, gx, gy) = (warp(second), warp(&gradient_x), warp(&gradient_y));
            // What the warped frame differs by, without the part that is linear in the flow.
            let constant: Vec<f32> = (0..area)
                .map(|i| warped.data[i] - gx.data[i] * u.data[i] - gy.data[i] * v.data[i] - first.data[i])
                .collect();
            for _ in 0..self.iterations {
                let mut change = 0f32;
                let divergence = [divergence(&p[0], &p[1]), divergence(&p[2], &p[3])];
                for i in 0..area {
                    let (a, b) = (gx.data[i], gy.data[i]);
                    let squared = a * a + b * b;
                    let residual = constant[i] + a * u.data[i] + b * v.data[i];
                    let limit = self.lambda * self.theta;
                    let step = if residual < -limit * squared {
                        limit
                    } else if residual > limit * squared {
                        -limit
                    } else if squared > 1e-10 {
                        -residual / squared
                    } else {
                        0.0
                    };
                    let next = [
                        u.data[i] + step * a + self.theta * divergence[0][i],
                        v.data[i] + step * b + self.theta * divergence[1][i],
                    ];
                    change += (next[0] - u.data[i]).powi(2) + (next[1] - v.data[i]).powi(2);
                    [u.data[i], v.data[i]] = next;
                }
                let rate = self.tau / self.theta;
                for (part, field) in [(0, &u), (2, &v)] {
                    ascend(&mut p[part..part + 2], field, rate);
                }
                if change / (area as f32) < self.tolerance * self.tolerance {
                    break;
                }
            }
        }
        Field { x: u, y: v }
    }
}

/// Backward differences, the adjoint of [`ascend`]'s forward ones.
fn divergence(px: &Plane, py: &Plane) -> Vec<f32> {
    let (w, h) = (px.width, px.height);
    let mut out = Vec::with_capacity(w * h);
    for y in 0..h {
        for x in 0..w {
            let i = y * w + x;
            let across = if x + 1 < w { px.data[i] } else { 0.0 } - if x > 0 { px.data[i - 1] } else { 0.0 };
            let down = if y + 1 < h { py.data[i] } else { 0.0 } - if y > 0 { py.data[i - w] } else { 0.0 };
            out.push(across + down);
        }
    }
    out
}

/// A step of the dual variables of one part of the flow.
fn ascend(p: &mut [Plane], field: &Plane, rate: f32) {
    let [px, py] = p else { return };
    let (w, h) = (field.width, field.height);
    for y in 0..h {
        for x in 0..w {
            let i = y * w + x;
            let dx = if x + 1 < w { field.data[i + 1] - field.data[i] } else { 0.0 };
            let dy = if y + 1 < h { field.data[i + w] - field.data[i] } else { 0.0 };
            let norm = 1.0 + rate * (dx * dx + dy * dy).sqrt();
            px.data[i] = (px.data[i] + rate * dx) / norm;
            py.data[i] = (py.data[i] + rate * dy) / norm;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A texture with waves of several lengths, moved by a known distance.
    fn texture([dx, dy]: [f32; 2]) -> Result<Plane> {
        let (w, h) = (64, 48);
        let mut data = Vec::new();
        for y in 0..h {
            for x in 0..w {
                let (x, y) = (x as f32 - dx, y as f32 - dy);
                let waves =
                    (0.35 * x + 0.1 * y).sin() + (0.12 * x - 0.4 * y).sin() + (0.8 * x + 0.6 * y).cos();
                data.push(127.0 + 35.0 * waves);
            }
        }
        Plane::new(w, h, data)
    }

    /// The mean distance to the known motion, away from the border.
    fn error(field: &Field, [dx, dy]: [f32; 2]) -> f32 {
        let (w, h) = (field.x.width, field.x.height);
        let (mut sum, mut count) = (0.0, 0.0);
        for y in 6..h - 6 {
            for x in 6..w - 6 {
                let i = y * w + x;
                sum += ((field.x.data[i] - dx).powi(2) + (field.y.data[i] - dy).powi(2)).sqrt();
                count += 1.0;
            }
        }
        sum / count
    }

    #[test]
    fn known_displacements_are_found() -> Result<()> {
        let still = texture([0.0, 0.0])?;
        for motion in [[0.0, 0.0], [1.0, 0.0], [-1.5, 0.75], [3.0, -2.5]] {
            let field = TvL1::default().flow(&still, &texture(motion)?)?;
            let error = error(&field, motion);
            assert!(error < 0.15, "{motion:?}: {error}");
        }
        Ok(())
    }

    #[test]
    fn planes_and_settings_that_do_not_fit_are_refused() -> Result<()> {
        let a = texture([0.0, 0.0])?;
        let b = Plane::new(2, 2, vec![0.0; 4])?;
        assert!(TvL1::default().flow(&a, &b).is_err());
        assert!(TvL1 { lambda: 0.0, ..TvL1::default() }.flow(&a, &a).is_err());
        assert!(TvL1 { scales: 0, ..TvL1::default() }.flow(&a, &a).is_err());
        Ok(())
    }
}
