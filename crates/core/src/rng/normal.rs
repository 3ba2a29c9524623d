//! Normal values from uniform ones, by our own logarithm and cosine: additions, multiplications, divisions and square
//! roots round alike everywhere, the C library's functions do not. A block is computed with the widest instructions of
//! the machine, and no product is fused with a sum, so that all of them give the same bits.

use crate::kernels::simd::vectorized;

/// Values computed at a time.
pub(super) const BLOCK: usize = 128;

/// Terms of each series: the next one is below half a unit in the last place of the sum.
const LN_TERMS: usize = 11;
const SIN_TERMS: usize = 9;
const COS_TERMS: usize = 10;

/// `1 / (2 i + 1)`: the series of the inverse hyperbolic tangent.
const LN: [f64; LN_TERMS] = {
    let (mut terms, mut i) = ([1.0; LN_TERMS], 0);
    while i < LN_TERMS {
        terms[i] = 1.0 / (2 * i + 1) as f64;
        i += 1;
    }
    terms
};
const SIN: [f64; SIN_TERMS] = alternating_factorials(1);
const COS: [f64; COS_TERMS] = alternating_factorials(0);

/// `(-1)^i / (2 i + first)!`.
const fn alternating_factorials<const N: usize>(first: usize) -> [f64; N] {
    let (mut terms, mut i) = ([1.0; N], 1);
    while i < N {
        let k = 2 * i + first;
        terms[i] = -terms[i - 1] / ((k - 1) * k) as f64;
        i += 1;
    }
    terms
}

#[inline(always)]
fn series<const N: usize>(terms: &[f64; N], x: f64) -> f64 {
    let mut sum = terms[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum * x + terms[i];
    }
    sum
}

/// The natural logarithm of a normal number above zero.
#[inline(always)]
fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    const ROOT_HALF: u64 = std::f64::consts::FRAC_1_SQRT_2.to_bits();
    // x = 2^exponent * m with m between the root of a half and that of two.
    let shifted = x.to_bits() + (1f64.to_bits() - ROOT_HALF);
    let m = f64::from_bits((shifted & MANTISSA) + ROOT_HALF);
    let exponent = small_integer(shifted >> 52) - 1023.0;
    let s = (m - 1.0) / (m + 1.0);
    exponent * std::f64::consts::LN_2 + 2.0 * s * series(&LN, s * s)
}

/// `n` below 2^52 as a float, in instructions that every vector unit has.
#[inline(always)]
fn small_integer(n: u64) -> f64 {
    const TWO_52: f64 = (1u64 << 52) as f64;
    f64::from_bits(n | TWO_52.to_bits()) - TWO_52
}

/// The cosine of `turns` (in `[0, 1)`) times two pi.
#[inline(always)]
fn cos_turns(turns: f64) -> f64 {
    // Adding this leaves no bits for a fraction: the sum ends in the nearest integer.
    const ROUND: f64 = 1.5 * (1u64 << 52) as f64;
    let rounded = 4.0 * turns + ROUND;
    let quarter = rounded.to_bits();
    let x = std::f64::consts::TAU * (turns - 0.25 * (rounded - ROUND));
    let sine = x * series(&SIN, x * x);
    let cosine = series(&COS, x * x);
    let value = if quarter & 1 == 0 { cosine } else { sine };
    let sign = ((quarter + 1) & 2) << 62;
    f64::from_bits(value.to_bits() ^ sign)
}

/// Box and Muller: a standard normal from two uniforms of `[0, 1)`.
#[inline(always)]
pub(super) fn normal(radius: f64, turns: f64) -> f64 {
    (-2.0 * ln(1.0 - radius)).sqrt() * cos_turns(turns)
}

vectorized! {
    /// [`normal`] of every pair, into the first of it.
    pub(super) fn normals(radii: &mut [f64; BLOCK], turns: &[f64; BLOCK]) {
        for (radius, turns) in radii.iter_mut().zip(turns) {
            *radius = normal(*radius, *turns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniforms of which some are the ends of the range and the borders of the cosine's quarters.
    fn uniforms() -> Vec<f64> {
        let last = 1.0 - 1.0 / (1u64 << 53) as f64;
        let even = (0..100_000).map(|i| f64::from(i) / 100_000.0);
        let borders = (0..8).flat_map(|i| [f64::from(i) / 8.0, f64::from(i) / 8.0 + 1e-16]);
        even.chain(borders).chain([last, 1e-300]).collect()
    }

    #[test]
    fn logarithm_and_cosine_are_those_of_the_library() {
        for u in uniforms() {
            // Within three units in the last place.
            let (got, truth) = (ln(1.0 - u), (1.0 - u).ln());
            assert!((got - truth).abs() <= 3.0 * f64::EPSILON * truth.abs(), "ln of 1 - {u}: {got} {truth}");
            // The library is given a rounded angle, which may be half a unit off.
            let (got, truth) = (cos_turns(u), (std::f64::consts::TAU * u).cos());
            assert!((got - truth).abs() <= 1e-15, "cos of {u} turns: {got} {truth}");
        }
    }

    #[test]
    fn blocks_are_equal_to_single_values() {
        let all = uniforms();
        for pair in all.chunks_exact(2 * BLOCK) {
            let mut radii: [f64; BLOCK] = std::array::from_fn(|i| pair[i]);
            let turns: [f64; BLOCK] = std::array::from_fn(|i| pair[BLOCK + i]);
            let expected: Vec<f64> = radii.iter().zip(&turns).map(|(&r, &t)| normal(r, t)).collect();
            normals(&mut radii, &turns);
            assert_eq!(radii.to_vec(), expected);
        }
    }
}
