//! Products with few columns: the scores of a linear classifier with a handful of classes, and their gradient.
//!
//! A general product packs both operands and works on wide tiles; with ten columns that costs more than the arithmetic.
//! Here the columns are padded to whole vectors and the rows are read where they lie. Multiplications and additions are
//! not fused, so that every instruction set gives the same bits.

use super::matrix::Scalar;
use crate::kernels::simd::vectorized;

/// Most columns for which this is the better way.
pub(super) const MOST: usize = 64;
/// Rows of the left operand that share a load of the right one.
const ROWS: usize = 4;
/// Columns of `x` whose sums are kept in registers in the backward pass: a cache line of f64.
const DEPTH: usize = 8;

/// `out = x w` for rows of `dim`: `w` is `[dim, width]`, `out` `[rows, width]`, with `width` whole vectors of `L`.
// Counted loops over fixed arrays are what the compiler turns into registers.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn forward<T: Scalar, const L: usize>(x: &[T], dim: usize, w: &[T], width: usize, out: &mut [T]) {
    for first in (0..width).step_by(L) {
        for (x, out) in x.chunks(ROWS * dim).zip(out.chunks_mut(ROWS * width)) {
            if x.len() == ROWS * dim {
                let (a, rest) = x.split_at(dim);
                let (b, rest) = rest.split_at(dim);
                let (c, d) = rest.split_at(dim);
                let mut sums = [[T::ZERO; L]; ROWS];
                for ((((w, &a), &b), &c), &d) in w.chunks_exact(width).zip(a).zip(b).zip(c).zip(d) {
                    let w = &w[first..first + L];
                    for l in 0..L {
                        sums[0][l] += a * w[l];
                        sums[1][l] += b * w[l];
                        sums[2][l] += c * w[l];
                        sums[3][l] += d * w[l];
                    }
                }
                for (out, sums) in out.chunks_exact_mut(width).zip(&sums) {
                    out[first..first + L].copy_from_slice(sums);
                }
            } else {
                for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(width)) {
                    let mut sums = [T::ZERO; L];
                    for (w, &x) in w.chunks_exact(width).zip(x) {
                        let w = &w[first..first + L];
                        for l in 0..L {
                            sums[l] += x * w[l];
                        }
                    }
                    out[first..first + L].copy_from_slice(&sums);
                }
            }
        }
    }
}

/// `out = x^T d` for rows of `dim` and of `width`: `out` is `[dim, width]`.
// Counted loops over fixed arrays are what the compiler turns into registers.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn backward<T: Scalar, const L: usize>(x: &[T], dim: usize, d: &[T], width: usize, out: &mut [T]) {
    for first in (0..width).step_by(L) {
        for (part, out) in out.chunks_mut(DEPTH * width).enumerate() {
            let k = part * DEPTH;
            if out.len() == DEPTH * width {
                let mut sums = [[T::ZERO; L]; DEPTH];
                for (x, d) in x.chunks_exact(dim).zip(d.chunks_exact(width)) {
                    let (x, d) = (&x[k..k + DEPTH], &d[first..first + L]);
                    for j in 0..DEPTH {
                        for l in 0..L {
                            sums[j][l] += x[j] * d[l];
                        }
                    }
                }
                for (out, sums) in out.chunks_exact_mut(width).zip(&sums) {
                    out[first..first + L].copy_from_slice(sums);
                }
            } else {
                for (j, out) in out.chunks_exact_mut(width).enumerate() {
                    let mut sums = [T::ZERO; L];
                    for (x, d) in x.chunks_exact(dim).zip(d.chunks_exact(width)) {
                        let (x, d) = (x[k + j], &d[first..first + L]);
                        for l in 0..L {
                            sums[l] += x * d[l];
                        }
                    }
                    out[first..first + L].copy_from_slice(&sums);
                }
            }
        }
    }
}

vectorized! {
    /// [`forward`] in f32, vectors of 16.
    pub(super) fn forward_f32(x: &[f32], dim: usize, w: &[f32], width: usize, out: &mut [f32]) {
        forward::<f32, 16>(x, dim, w, width, out);
    }

    /// [`forward`] in f64, vectors of 8.
    pub(super) fn forward_f64(x: &[f64], dim: usize, w: &[f64], width: usize, out: &mut [f64]) {
        forward::<f64, 8>(x, dim, w, width, out);
    }

    /// [`backward`] in f32, vectors of 16.
    pub(super) fn backward_f32(x: &[f32], dim: usize, d: &[f32], width: usize, out: &mut [f32]) {
        backward::<f32, 16>(x, dim, d, width, out);
    }

    /// [`backward`] in f64, vectors of 8.
    pub(super) fn backward_f64(x: &[f64], dim: usize, d: &[f64], width: usize, out: &mut [f64]) {
        backward::<f64, 8>(x, dim, d, width, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};

    #[test]
    fn both_products_equal_the_definition() {
        let mut stream = Key::new(4, Purpose::Data).stream();
        for (rows, dim, width) in [(1, 1, 8), (4, 8, 16), (7, 21, 24), (13, 40, 8)] {
            let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| stream.normal()).collect() };
            let (x, w, d) = (draw(rows * dim), draw(dim * width), draw(rows * width));
            let (mut out, mut grad) = (vec![f64::NAN; rows * width], vec![f64::NAN; dim * width]);
            forward_f64(&x, dim, &w, width, &mut out);
            backward_f64(&x, dim, &d, width, &mut grad);
            for c in 0..width {
                for r in 0..rows {
                    let sum: f64 = (0..dim).map(|k| x[r * dim + k] * w[k * width + c]).sum();
                    assert!((out[r * width + c] - sum).abs() < 1e-12);
                }
                for k in 0..dim {
                    let sum: f64 = (0..rows).map(|r| x[r * dim + k] * d[r * width + c]).sum();
                    assert!((grad[k * width + c] - sum).abs() < 1e-12);
                }
            }
        }
    }
}
