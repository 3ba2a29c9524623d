//! The arithmetic: rows are read twice from the first-level cache, so that the variance is that of centred values.

use std::ops::Range;

use crate::kernels::gemm;
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::simd::math::{fused, mul_add, sum_of};

/// Elements of one unit of work.
const UNIT: usize = 32 * 1024;

/// A batch of rows with what they are scaled by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerNorm<'a> {
    pub rows: usize,
    /// `[rows, D]`, with the `D` of `gamma`.
    pub x: &'a [f32],
    pub gamma: &'a [f32],
}

/// Mean and reciprocal standard deviation of every row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moments<'a> {
    pub mean: &'a [f32],
    pub inv_std: &'a [f32],
}

/// What the forward pass writes.
pub(crate) struct Forward<'a> {
    pub y: &'a mut [f32],
    pub mean: &'a mut [f32],
    pub inv_std: &'a mut [f32],
}

/// What the backward pass writes.
pub(crate) struct Backward<'a> {
    pub dx: &'a mut [f32],
    /// Whether the gradient is added to what `dx` holds.
    pub add: bool,
    pub d_gamma: &'a mut [f32],
    pub d_beta: &'a mut [f32],
}

impl LayerNorm<'_> {
    fn units(&self) -> (usize, usize) {
        let rows = (UNIT / self.gamma.len().max(1)).max(1);
        (rows, self.rows.div_ceil(rows))
    }

    fn rows_of(&self, unit: usize) -> Range<usize> {
        let (rows, _) = self.units();
        unit * rows..self.rows.min((unit + 1) * rows)
    }

    /// `y = (x - mean) / sqrt(variance + eps) * gamma + beta`.
    pub(crate) fn forward(&self, beta: &[f32], eps: f64, out: Forward) {
        let d = self.gamma.len();
        assert!(beta.len() == d && self.x.len() == self.rows * d, "layer norm: lengths");
        let (y, mean, inv_std) = (Disjoint::new(out.y), Disjoint::new(out.mean), Disjoint::new(out.inv_std));
        parallel::for_each(self.units().1, |unit| {
            let rows = self.rows_of(unit);
            // SAFETY: units do not overlap.
            let (y, mean, inv_std) = unsafe {
                let start = rows.start;
                (
                    y.slice(start * d, rows.len() * d),
                    mean.slice(start, rows.len()),
                    inv_std.slice(start, rows.len()),
                )
            };
            forward_rows(&self.x[rows.start * d..rows.end * d], (self.gamma, beta), eps, y, (mean, inv_std));
        });
    }

    /// The gradients of `x`, `gamma` and `beta`.
    pub(crate) fn backward(&self, moments: Moments, dy: &[f32], out: Backward) {
        let d = self.gamma.len();
        assert!(dy.len() == self.rows * d && self.x.len() == dy.len(), "layer norm: lengths");
        let units = self.units().1;
        let mut partial = Buffer::zeros(units * 2 * d);
        let (dx, sums) = (Disjoint::new(out.dx), Disjoint::new(&mut partial));
        parallel::for_each(units, |unit| {
            let rows = self.rows_of(unit);
            let run = rows.start * d..rows.end * d;
            // SAFETY: units do not overlap, and each has its own sums.
            let (dx, sums) = unsafe { (dx.slice(run.start, run.len()), sums.slice(unit * 2 * d, 2 * d)) };
            let moments = (&moments.mean[rows.clone()], &moments.inv_std[rows]);
            backward_rows((&self.x[run.clone()], &dy[run]), self.gamma, moments, (dx, out.add), sums);
        });
        let mut total = Buffer::zeros(2 * d);
        gemm::add_rows(&partial, &mut total);
        out.d_gamma[..d].copy_from_slice(&total[..d]);
        out.d_beta[..d].copy_from_slice(&total[d..]);
    }
}

fused! {
    fn forward_rows<const FMA: bool>(
        x: &[f32],
        affine: (&[f32], &[f32]),
        eps: f64,
        y: &mut [f32],
        moments: (&mut [f32], &mut [f32]),
    ) {
        let (gamma, beta) = affine;
        let d = gamma.len();
        let rows = x.chunks_exact(d).zip(y.chunks_exact_mut(d));
        for ((x, y), (mean, inv_std)) in rows.zip(moments.0.iter_mut().zip(moments.1)) {
            let [sum] = sum_of([x], |x| x);
            let centre = (f64::from(sum) / d as f64) as f32;
            let [squares] = sum_of([x], |[x]| {
                let x = x - centre;
                [x * x]
            });
            let scale = (1.0 / (f64::from(squares) / d as f64 + eps).sqrt()) as f32;
            for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                *y = mul_add::<FMA>((x - centre) * scale, gamma, beta);
            }
            (*mean, *inv_std) = (centre, scale);
        }
    }

    /// `sums` gathers the gradients of gamma and beta.
    fn backward_rows<const FMA: bool>(
        operands: (&[f32], &[f32]),
        gamma: &[f32],
        moments: (&[f32], &[f32]),
        out: (&mut [f32], bool),
        sums: &mut [f32],
    ) {
        let ((x, dy), (dx, add), d) = (operands, out, gamma.len());
        let (d_gamma, d_beta) = sums.split_at_mut(d);
        let rows = x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d));
        for (((x, dy), dx), (&mean, &scale)) in rows.zip(moments.0.iter().zip(moments.1)) {
            let [plain, slanted] = sum_of([x, dy, gamma], |[x, dy, gamma]| {
                let g = dy * gamma;
                [g, g * (x - mean)]
            });
            // The part of the gradient along (1, ..., 1), and that along the normalised row.
            let shift = plain / d as f32;
            let slope = slanted * scale / d as f32;
            let affine = d_gamma.iter_mut().zip(d_beta.iter_mut()).zip(gamma);
            if add {
                for (((dx, &x), &dy), ((d_gamma, d_beta), &gamma)) in dx.iter_mut().zip(x).zip(dy).zip(affine) {
                    let normal = (x - mean) * scale;
                    *dx += scale * (mul_add::<FMA>(dy, gamma, -shift) - normal * slope);
                    *d_gamma = mul_add::<FMA>(dy, normal, *d_gamma);
                    *d_beta += dy;
                }
            } else {
                for (((dx, &x), &dy), ((d_gamma, d_beta), &gamma)) in dx.iter_mut().zip(x).zip(dy).zip(affine) {
                    let normal = (x - mean) * scale;
                    *dx = scale * (mul_add::<FMA>(dy, gamma, -shift) - normal * slope);
                    *d_gamma = mul_add::<FMA>(dy, normal, *d_gamma);
                    *d_beta += dy;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::tests::{assert_close, noise};

    const EPS: f64 = 1e-6;

    struct Plain {
        y: Vec<f64>,
        dx: Vec<f64>,
        d_gamma: Vec<f64>,
        d_beta: Vec<f64>,
    }

    fn plain(rows: usize, x: &[f32], gamma: &[f32], beta: &[f32], dy: &[f32]) -> Plain {
        let d = gamma.len();
        let mut out = Plain { y: vec![], dx: vec![], d_gamma: vec![0.0; d], d_beta: vec![0.0; d] };
        for row in 0..rows {
            let x: Vec<f64> = x[row * d..][..d].iter().map(|&v| v.into()).collect();
            let dy: Vec<f64> = dy[row * d..][..d].iter().map(|&v| v.into()).collect();
            let mean = x.iter().sum::<f64>() / d as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
            let scale = 1.0 / (variance + EPS).sqrt();
            let normal: Vec<f64> = x.iter().map(|x| (x - mean) * scale).collect();
            let g: Vec<f64> = (0..d).map(|j| dy[j] * f64::from(gamma[j])).collect();
            let shift = g.iter().sum::<f64>() / d as f64;
            let slope = g.iter().zip(&normal).map(|(g, n)| g * n).sum::<f64>() / d as f64;
            for j in 0..d {
                out.y.push(normal[j] * f64::from(gamma[j]) + f64::from(beta[j]));
                out.dx.push(scale * (g[j] - shift - normal[j] * slope));
                out.d_gamma[j] += dy[j] * normal[j];
                out.d_beta[j] += dy[j];
            }
        }
        out
    }

    #[test]
    fn both_passes_match_plain_loops() {
        for (rows, d) in [(1usize, 2usize), (3, 5), (7, 64), (200, 384), (33, 100)] {
            let x: Vec<f32> = noise(rows * d, 1).iter().map(|v| v * 3.0 + 2.0).collect();
            let (dy, gamma, beta) = (noise(rows * d, 2), noise(d, 3), noise(d, 4));
            let want = plain(rows, &x, &gamma, &beta, &dy);
            let norm = LayerNorm { rows, x: &x, gamma: &gamma };
            let (mut y, mut mean, mut inv_std) = (vec![0f32; rows * d], vec![0f32; rows], vec![0f32; rows]);
            let out = Forward { y: &mut y, mean: &mut mean, inv_std: &mut inv_std };
            norm.forward(&beta, EPS, out);
            // Two values that nearly meet have a large inverse deviation.
            let depth = if d < 8 { 100_000 } else { d };
            assert_close(&y, &want.y, depth, "y");
            let moments = Moments { mean: &mean, inv_std: &inv_std };
            let (mut d_gamma, mut d_beta) = (vec![0f32; d], vec![0f32; d]);
            for add in [false, true] {
                let mut dx = if add { x.clone() } else { vec![f32::NAN; rows * d] };
                let out = Backward { dx: &mut dx, add, d_gamma: &mut d_gamma, d_beta: &mut d_beta };
                norm.backward(moments, &dy, out);
                let before = |i: usize| if add { f64::from(x[i]) } else { 0.0 };
                let want_dx: Vec<f64> = want.dx.iter().enumerate().map(|(i, v)| v + before(i)).collect();
                assert_close(&dx, &want_dx, depth, "dx");
                assert_close(&d_gamma, &want.d_gamma, depth.max(rows), "d gamma");
                assert_close(&d_beta, &want.d_beta, rows, "d beta");
            }
        }
    }

    #[test]
    fn large_means_keep_their_variance() {
        let x: Vec<f32> = (0..384).map(|i| 1000.0 + (i % 3) as f32).collect();
        let (mut y, mut mean, mut inv_std) = ([0f32; 384], [0f32], [0f32]);
        let norm = LayerNorm { rows: 1, x: &x, gamma: &[1.0; 384] };
        norm.forward(&[0.0; 384], 0.0, Forward { y: &mut y, mean: &mut mean, inv_std: &mut inv_std });
        assert!((inv_std[0] - 1.5f32.sqrt()).abs() < 1e-5 && (mean[0] - 1001.0).abs() < 1e-4);
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let (rows, d) = (1000, 96);
        let (x, dy, gamma) = (noise(rows * d, 1), noise(rows * d, 2), noise(d, 3));
        let results = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let norm = LayerNorm { rows, x: &x, gamma: &gamma };
                let mut out = [rows * d, rows, rows, rows * d, d, d].map(|len| vec![0f32; len]);
                let [y, mean, inv_std, dx, d_gamma, d_beta] = &mut out;
                norm.forward(&gamma, EPS, Forward { y, mean, inv_std });
                norm.backward(Moments { mean, inv_std }, &dy, Backward { dx, add: false, d_gamma, d_beta });
                out
            })
        };
        let one = results(1);
        assert!(one == results(2) && one == results(5));
    }
}
