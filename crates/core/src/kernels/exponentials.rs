//! Exponentials of a row, for softmaxes over logits that lie in a slice.

use super::simd::math::{exp, fold, fused};

/// Additions side by side.
const LANES: usize = 32;

fused! {
    /// Turns every `x` into `e^(x - shift)` (0 for minus infinity, NaN for NaN) and returns the sum. To about 2e-7 relative
    /// where `x - shift` is below 88.
    pub fn exponentials<const FMA: bool>(row: &mut [f32], shift: f32) -> f32 {
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        let mut sums = [0f32; LANES];
        for chunk in chunks {
            for (x, sum) in chunk.iter_mut().zip(&mut sums) {
                *x = exp::<FMA>(*x - shift);
                *sum += *x;
            }
        }
        let mut sum = fold(&sums);
        for x in rest {
            *x = exp::<FMA>(*x - shift);
            sum += *x;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_values_are_those_of_the_library() {
        for n in [1, 31, 32, 100] {
            let start: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 20.0).collect();
            let mut row = start.clone();
            row[0] = f32::NEG_INFINITY;
            let sum = exponentials(&mut row, 3.0);
            assert_eq!(row[0], 0.0);
            let mut expected = 0f64;
            for (got, x) in row.iter().zip(&start).skip(1) {
                let truth = (f64::from(*x) - 3.0).exp();
                assert!((f64::from(*got) - truth).abs() < 5e-6 * truth, "{got} {truth}");
                expected += truth;
            }
            assert!((f64::from(sum) - expected).abs() <= 5e-6 * expected, "{sum} {expected}");
        }
        for place in [0, 40] {
            let mut row = [1f32; 41];
            row[place] = f32::NAN;
            assert!(exponentials(&mut row, 0.0).is_nan());
        }
    }
}
