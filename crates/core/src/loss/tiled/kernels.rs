//! The element-wise work on one tile of logits: exponentials, row and column statistics, softmax weights.
//!
//! The loops are written so that the compiler vectorises them.

use crate::kernels::simd::math::{exp, fused, larger};
use crate::kernels::simd::vectorized;

/// Lanes of a reduction: two AVX-512 or four AVX registers, enough to hide the latency of additions.
const LANES: usize = 32;

/// The largest element and the sum of `e^(s - shift)`; `shift` is the largest element, or 0 where there is none.
#[inline(always)]
fn row_stats_body<const FMA: bool>(tile: &[f32], columns: usize, max: &mut [f32], sum: &mut [f32]) {
    for ((row, max), sum) in tile.chunks_exact(columns).zip(max).zip(sum) {
        let (chunks, rest) = row.as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in chunks {
            for (lane, &s) in lanes.iter_mut().zip(chunk) {
                *lane = larger(s, *lane);
            }
        }
        let most = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &s| larger(s, m));
        let shift = if most == f32::NEG_INFINITY { 0.0 } else { most };
        let mut lanes = [0f32; LANES];
        for chunk in chunks {
            for (lane, &s) in lanes.iter_mut().zip(chunk) {
                *lane += exp::<FMA>(s - shift);
            }
        }
        *max = most;
        *sum = lanes.iter().sum::<f32>() + rest.iter().map(|&s| exp::<FMA>(s - shift)).sum::<f32>();
    }
}

/// Largest element and sum of `e^s` for rows (written) and for columns (gathered into what is there).
#[inline(always)]
fn symmetric_stats_body<const FMA: bool>(
    tile: &[f32],
    columns: usize,
    row_max: &mut [f32],
    row_sum: &mut [f32],
    column_max: &mut [f32],
    column_sum: &mut [f32],
) {
    for ((row, row_max), row_sum) in tile.chunks_exact(columns).zip(row_max).zip(row_sum) {
        let (chunks, rest) = row.as_chunks::<LANES>();
        let (max_chunks, max_rest) = column_max.as_chunks_mut::<LANES>();
        let (sum_chunks, sum_rest) = column_sum.as_chunks_mut::<LANES>();
        let mut most = [f32::NEG_INFINITY; LANES];
        let mut sums = [0f32; LANES];
        for ((chunk, column_max), column_sum) in chunks.iter().zip(max_chunks).zip(sum_chunks) {
            for lane in 0..LANES {
                let s = chunk[lane];
                let e = exp::<FMA>(s);
                most[lane] = larger(s, most[lane]);
                sums[lane] += e;
                column_max[lane] = larger(s, column_max[lane]);
                column_sum[lane] += e;
            }
        }
        let mut sum = sums.iter().sum::<f32>();
        let mut max = most.iter().fold(f32::NEG_INFINITY, |m, &s| larger(s, m));
        for ((&s, column_max), column_sum) in rest.iter().zip(max_rest).zip(sum_rest) {
            let e = exp::<FMA>(s);
            max = larger(s, max);
            sum += e;
            *column_max = larger(s, *column_max);
            *column_sum += e;
        }
        *row_max = max;
        *row_sum = sum;
    }
}

/// `s` to `gradient_i * e^(s - lse_i)`.
#[inline(always)]
fn weights_body<const FMA: bool>(tile: &mut [f32], columns: usize, lse: &[f32], gradient: &[f32]) {
    for ((row, &lse), &gradient) in tile.chunks_exact_mut(columns).zip(lse).zip(gradient) {
        for s in row {
            *s = exp::<FMA>(*s - lse) * gradient;
        }
    }
}

/// `s` to `e^s * (row_factor_i + column_factor_j)`.
#[inline(always)]
fn symmetric_weights_body<const FMA: bool>(
    tile: &mut [f32],
    columns: usize,
    row_factor: &[f32],
    column_factor: &[f32],
) {
    for (row, &row_factor) in tile.chunks_exact_mut(columns).zip(row_factor) {
        for (s, &column_factor) in row.iter_mut().zip(column_factor) {
            *s = exp::<FMA>(*s) * (row_factor + column_factor);
        }
    }
}

vectorized! {
    /// All of `tile` times `factor`.
    pub(super) fn scale(tile: &mut [f32], factor: f32) {
        for s in tile {
            *s *= factor;
        }
    }
}

fused! {
    /// See [`row_stats_body`].
    pub(super) fn row_stats<const FMA: bool>(tile: &[f32], columns: usize, max: &mut [f32], sum: &mut [f32]) {
        row_stats_body::<FMA>(tile, columns, max, sum);
    }

    /// See [`symmetric_stats_body`].
    pub(super) fn symmetric_stats<const FMA: bool>(
        tile: &[f32],
        columns: usize,
        row_max: &mut [f32],
        row_sum: &mut [f32],
        column_max: &mut [f32],
        column_sum: &mut [f32],
    ) {
        symmetric_stats_body::<FMA>(tile, columns, row_max, row_sum, column_max, column_sum);
    }

    /// See [`weights_body`].
    pub(super) fn weights<const FMA: bool>(tile: &mut [f32], columns: usize, lse: &[f32], gradient: &[f32]) {
        weights_body::<FMA>(tile, columns, lse, gradient);
    }

    /// See [`symmetric_weights_body`].
    pub(super) fn symmetric_weights<const FMA: bool>(
        tile: &mut [f32],
        columns: usize,
        row_factor: &[f32],
        column_factor: &[f32],
    ) {
        symmetric_weights_body::<FMA>(tile, columns, row_factor, column_factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatched_kernels_agree_with_the_portable_bodies() {
        for columns in [1usize, 5, 31, 32, 33, 100] {
            let rows = 3;
            let mut tile: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
            tile[columns / 2] = f32::NEG_INFINITY;
            let close = |a: &[f32], b: &[f32]| {
                for (a, b) in a.iter().zip(b) {
                    assert!(a == b || (a - b).abs() <= 1e-5 * b.abs(), "{a} {b}");
                }
            };
            let mut fast = [vec![0f32; rows], vec![0f32; rows]];
            let mut slow = fast.clone();
            let [max, sum] = &mut fast;
            row_stats(&tile, columns, max, sum);
            let [max, sum] = &mut slow;
            row_stats_body::<false>(&tile, columns, max, sum);
            for i in 0..2 {
                close(&fast[i], &slow[i]);
            }
            let run = |portable: bool| {
                let (mut rm, mut rs) = (vec![0f32; rows], vec![0f32; rows]);
                let (mut cm, mut cs) = (vec![-1f32; columns], vec![1f32; columns]);
                if portable {
                    symmetric_stats_body::<false>(&tile, columns, &mut rm, &mut rs, &mut cm, &mut cs);
                } else {
                    symmetric_stats(&tile, columns, &mut rm, &mut rs, &mut cm, &mut cs);
                }
                [rm, rs, cm, cs].concat()
            };
            close(&run(false), &run(true));
            let (lse, gradient) = ([9.5f32, 10.0, 11.0], [0.5f32, -1.0, 2.0]);
            let mut fast = tile.clone();
            let mut slow = tile.clone();
            weights(&mut fast, columns, &lse, &gradient);
            weights_body::<false>(&mut slow, columns, &lse, &gradient);
            close(&fast, &slow);
            let factor: Vec<f32> = (0..columns).map(|j| j as f32 * 0.1).collect();
            let mut fast = tile.clone();
            let mut slow = tile.clone();
            symmetric_weights(&mut fast, columns, &gradient, &factor);
            symmetric_weights_body::<false>(&mut slow, columns, &gradient, &factor);
            close(&fast, &slow);
        }
    }

    #[test]
    fn a_nan_shows_in_the_sum() {
        let mut tile = vec![0.5f32; 40];
        tile[7] = f32::NAN;
        let (mut max, mut sum) = ([0f32], [0f32]);
        row_stats(&tile, 40, &mut max, &mut sum);
        assert!(sum[0].is_nan());
        row_stats(&[f32::NAN; 3], 3, &mut max, &mut sum);
        assert!(sum[0].is_nan());
    }
}
