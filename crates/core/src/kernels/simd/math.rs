//! Exponential and the functions of the normal distribution as plain arithmetic: no branch and no call, so that a loop
//! over them becomes vector instructions, inside [`fused!`] with one instruction for a product and a sum.

use std::f32::consts::LOG2_E;

/// As [`vectorized!`](super::vectorized), for bodies that take a constant which says whether a multiplication and an
/// addition are one instruction; without one, `f32::mul_add` is a slow library call.
///
/// ```ignore
/// fused! {
///     /// `x` to `e^x`.
///     fn exp_all<const FMA: bool>(x: &mut [f32]) {
///         for x in x { *x = exp::<FMA>(*x); }
///     }
/// }
/// ```
macro_rules! fused {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident<const $fma:ident: bool>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body<const $fma: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                match $crate::kernels::simd::level() {
                    // SAFETY: the level is only given by a machine that has these instructions.
                    $crate::kernels::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::kernels::simd::Level::Portable => {}
                }
            }
            // Every AArch64 machine multiplies and adds in one instruction.
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    )*};
}
pub(crate) use fused;

/// `a * b + c`.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `Σ a b` in sixteen sums, which the compiler keeps in vector registers; the same on every machine.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// The larger of two; `b` where `a` is NaN or both are.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller of two; `b` where `a` is NaN or both are.
#[inline(always)]
pub(crate) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The polynomial with these coefficients, the highest first.
#[inline(always)]
fn polynomial<const FMA: bool, const N: usize>(x: f32, coefficients: &[f32; N]) -> f32 {
    let mut value = coefficients[0];
    let mut i = 1;
    while i < N {
        value = mul_add::<FMA>(value, x, coefficients[i]);
        i += 1;
    }
    value
}

/// `e^x` to about 1.5e-7 relative. 0 below -87.3 (also at -inf), held at `e^88` above; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const SMALLEST: f32 = -87.3;
    const LARGEST: f32 = 88.0;
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
    const MAGIC: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few bits, so that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Taylor's series; the argument is within ln 2 / 2, so the rest is below 6e-9.
    const SERIES: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let y = larger(SMALLEST, smaller(LARGEST, x));
    let shifted = mul_add::<FMA>(y, LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = mul_add::<FMA>(n, -LN2_HIGH, y);
    let r = mul_add::<FMA>(n, -LN2_LOW, r);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let value = polynomial::<FMA, 8>(r, &SERIES) * power;
    if x < SMALLEST { 0.0 } else { value }
}

/// `1 / (1 + e^-x)` to about 2e-7. NaN stays NaN.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The hyperbolic tangent to about 2e-7 (of 1, not of the value). NaN stays NaN.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp::<FMA>(2.0 * x))
}

/// The standard normal distribution function `(1 + erf(x / sqrt 2)) / 2` to about 1.3e-7; exactly 0 and 1 from
/// `|x|` = 5.5 on. NaN stays NaN.
///
/// `1/2 + x f(x^2)` with a polynomial `f` that equalises the largest errors of `x * normal_cdf(x)` up to 5.4 (Remez's
/// exchange), in powers of the distance from the middle of the range of `x^2`: those hardly cancel each other.
#[inline(always)]
pub(crate) fn normal_cdf<const FMA: bool>(x: f32) -> f32 {
    const MIDDLE: f32 = 14.58;
    const F: [f32; 15] = [
        1.779_282e-20,
        -7.448_942_3e-19,
        1.100_5e-17,
        -1.999_749_2e-16,
        8.025_671e-15,
        -2.224_815_5e-13,
        4.778_486_6e-12,
        -1.000_563_3e-10,
        2.041_680_1e-9,
        -3.905_772e-8,
        7.108_240_5e-7,
        -1.265_042_7e-5,
        2.281_502_2e-4,
        -4.480_659e-3,
        1.309_281_1e-1,
    ];
    // Beyond the range `f` stays constant, so that the sum leaves 0..1 and is cut.
    let t = smaller(MIDDLE, mul_add::<FMA>(x, x, -MIDDLE));
    let value = mul_add::<FMA>(x, polynomial::<FMA, 15>(t, &F), 0.5);
    larger(0.0, smaller(1.0, value))
}

/// The derivative of `x * normal_cdf(x)`, which is `normal_cdf(x) + x * density(x)`, to about 4e-7; exactly 0 below
/// -5.9. NaN stays NaN. Made as [`normal_cdf`], for `|x|` up to 5.9.
#[inline(always)]
pub(crate) fn gelu_slope<const FMA: bool>(x: f32) -> f32 {
    const LARGEST: f32 = 5.9;
    const MIDDLE: f32 = 17.405;
    const F: [f32; 18] = [
        -3.362_159e-24,
        1.427_422_2e-22,
        -7.328_669_1e-22,
        -7.674_532e-21,
        -1.602_298e-18,
        5.511_696_6e-17,
        -8.935_946e-16,
        1.725_720_9e-14,
        -4.215_532e-13,
        8.347_452e-12,
        -1.396_685e-10,
        2.216_326_2e-9,
        -3.392_623_7e-8,
        5.149_945e-7,
        -8.378_643_5e-6,
        1.560_781_2e-4,
        -3.474_070_4e-3,
        1.199_112_9e-1,
    ];
    let y = larger(-LARGEST, smaller(LARGEST, x));
    let value = mul_add::<FMA>(y, polynomial::<FMA, 18>(mul_add::<FMA>(y, y, -MIDDLE), &F), 0.5);
    if x < -LARGEST { 0.0 } else { value }
}

/// The sum of the values of `f` over equally long operands, in lanes that are added in a fixed order.
#[inline(always)]
pub(crate) fn sum_of<const M: usize, const K: usize>(
    operands: [&[f32]; M],
    f: impl Fn([f32; M]) -> [f32; K],
) -> [f32; K] {
    const LANES: usize = 32;
    let parts = operands.map(|o| o.as_chunks::<LANES>());
    let (blocks, rest) = parts.first().map_or((0, 0), |(blocks, rest)| (blocks.len(), rest.len()));
    let mut sums = [[0f32; LANES]; K];
    for block in 0..blocks {
        let at = parts.map(|(blocks, _)| &blocks[block]);
        // Indices, because a lane runs across all arrays and the compiler must see a constant number of lanes.
        #[allow(clippy::needless_range_loop)]
        for lane in 0..LANES {
            let values = f(at.map(|block| block[lane]));
            for k in 0..K {
                sums[k][lane] += values[k];
            }
        }
    }
    let mut totals = sums.map(|lanes| fold(&lanes));
    for i in 0..rest {
        let values = f(parts.map(|(_, rest)| rest[i]));
        for (total, value) in totals.iter_mut().zip(values) {
            *total += value;
        }
    }
    totals
}

/// The sum of all lanes, halves on halves; their number is a power of two.
#[inline(always)]
pub(crate) fn fold<const LANES: usize>(lanes: &[f32; LANES]) -> f32 {
    let mut sums = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error function by its series (small arguments) and its continued fraction.
    fn erfc(x: f64) -> f64 {
        if x < 0.0 {
            return 2.0 - erfc(-x);
        }
        if x < 2.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..80 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let mut tail = x;
        for n in (1..120).rev() {
            tail = x + f64::from(n) / 2.0 / tail;
        }
        (-x * x).exp() / tail / std::f64::consts::PI.sqrt()
    }

    pub(crate) fn cdf(x: f64) -> f64 {
        erfc(-x / std::f64::consts::SQRT_2) / 2.0
    }

    #[test]
    fn exponential_is_accurate_everywhere() {
        let mut worst = 0f64;
        for i in 0..400_000 {
            let x = -87.2f32 + 175.1 * i as f32 / 400_000.0;
            let truth = f64::from(x).exp();
            for y in [exp::<false>(x), exp::<true>(x)] {
                worst = worst.max((f64::from(y) - truth).abs() / truth);
            }
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(exp::<true>(0.0), 1.0);
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(-1e30), 0.0);
        assert!(exp::<true>(f32::NAN).is_nan() && exp::<false>(f32::NAN).is_nan());
        assert!(exp::<true>(f32::INFINITY) > 1e38);
    }

    #[test]
    fn gates_are_accurate_everywhere() {
        let mut worst = [0f64; 2];
        for i in -200_000..=200_000 {
            let x = i as f32 / 4_000.0;
            let wide = f64::from(x);
            for (s, t) in [(sigmoid::<false>(x), tanh::<false>(x)), (sigmoid::<true>(x), tanh::<true>(x))] {
                worst[0] = worst[0].max((f64::from(s) - 1.0 / (1.0 + (-wide).exp())).abs());
                worst[1] = worst[1].max((f64::from(t) - wide.tanh()).abs());
            }
        }
        assert!(worst.iter().all(|worst| *worst < 3e-7), "{worst:?}");
        for x in [1e3f32, f32::INFINITY] {
            assert!(sigmoid::<true>(x) == 1.0 && sigmoid::<true>(-x) < 1e-37);
            assert_eq!((tanh::<true>(x), tanh::<true>(-x)), (1.0, -1.0));
        }
        assert!(sigmoid::<true>(f32::NAN).is_nan() && tanh::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn normal_functions_are_accurate_everywhere() {
        let mut worst = [[0f64; 3]; 2];
        for i in -400_000..=400_000 {
            let x = i as f32 / 40_000.0;
            let wide = f64::from(x);
            let truth = cdf(wide);
            let slope = truth + wide * (-wide * wide / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let plain = (normal_cdf::<false>(x), gelu_slope::<false>(x));
            for (worst, (p, s)) in
                worst.iter_mut().zip([plain, (normal_cdf::<true>(x), gelu_slope::<true>(x))])
            {
                let error = (f64::from(p) - truth).abs();
                let errors = [error, error * wide.abs(), (f64::from(s) - slope).abs()];
                worst.iter_mut().zip(errors).for_each(|(worst, error)| *worst = worst.max(error));
            }
        }
        for (worst, limits) in worst.iter().zip([[2e-7, 6e-7, 6e-7], [1.5e-7, 5e-7, 5e-7]]) {
            assert!(
                worst.iter().zip(limits).all(|(worst, limit)| *worst < limit),
                "{worst:?} beyond {limits:?}"
            );
        }
        for x in [5.5f32, 7.0, 1e3, 1e30, f32::INFINITY] {
            assert_eq!((normal_cdf::<true>(x), normal_cdf::<true>(-x)), (1.0, 0.0));
            assert_eq!(gelu_slope::<true>(-2.0 * x), 0.0);
            assert!((gelu_slope::<true>(2.0 * x) - 1.0).abs() < 4e-7);
        }
        assert!(normal_cdf::<true>(f32::NAN).is_nan() && gelu_slope::<true>(f32::NAN).is_nan());
    }
}
