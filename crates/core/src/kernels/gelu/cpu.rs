//! The arithmetic of the GELU in its exact form, `x * normal_cdf(x)` (Hendrycks & Gimpel 2016).

use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::simd::math::{fused, gelu_slope, normal_cdf};

/// Elements of one unit of work: they and their results stay in the second-level cache.
const UNIT: usize = 32 * 1024;

/// `y = gelu(x)`.
pub(crate) fn forward(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "gelu: lengths");
    let out = Disjoint::new(y);
    parallel::for_each(x.len().div_ceil(UNIT), |unit| {
        let x = part(x, unit);
        // SAFETY: units do not overlap.
        forward_unit(x, unsafe { out.slice(unit * UNIT, x.len()) });
    });
}

/// `dy` to `dy * gelu'(x)`.
pub(crate) fn backward(x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "gelu: lengths");
    let out = Disjoint::new(dy);
    parallel::for_each(x.len().div_ceil(UNIT), |unit| {
        let x = part(x, unit);
        // SAFETY: units do not overlap.
        backward_unit(x, unsafe { out.slice(unit * UNIT, x.len()) });
    });
}

fn part(x: &[f32], unit: usize) -> &[f32] {
    &x[unit * UNIT..x.len().min((unit + 1) * UNIT)]
}

fused! {
    fn forward_unit<const FMA: bool>(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal_cdf::<FMA>(x);
        }
    }

    fn backward_unit<const FMA: bool>(x: &[f32], dy: &mut [f32]) {
        for (dy, &x) in dy.iter_mut().zip(x) {
            *dy *= gelu_slope::<FMA>(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::tests::noise;

    /// GELU and its derivative by Simpson's rule over the density.
    fn truth(x: f32) -> (f64, f64) {
        let x = f64::from(x);
        let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let steps = 2000;
        let h = x / f64::from(steps);
        let inner =
            (1..steps).map(|i| density(f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum::<f64>();
        let cdf = 0.5 + (density(0.0) + density(x) + inner) * h / 3.0;
        (x * cdf, cdf + x * density(x))
    }

    fn close(got: f32, want: f64) {
        assert!((f64::from(got) - want).abs() < 5e-7 * want.abs().max(1.0), "{got} for {want}");
    }

    #[test]
    fn matches_the_definition() {
        for len in [1usize, 17, 70_000] {
            let x: Vec<f32> = noise(len, 1).iter().map(|v| v * 7.0).collect();
            let dy = noise(len, 2);
            let (mut y, mut dx) = (vec![f32::NAN; len], dy.clone());
            forward(&x, &mut y);
            backward(&x, &mut dx);
            for i in (0..len).step_by(1 + len / 500) {
                let (value, slope) = truth(x[i]);
                close(y[i], value);
                close(dx[i], f64::from(dy[i]) * slope);
            }
        }
    }

    #[test]
    fn a_nan_stays() {
        let mut y = [0f32; 40];
        forward(&[f32::NAN; 40], &mut y);
        assert!(y.iter().all(|y| y.is_nan()));
        y.fill(1.0);
        backward(&[f32::NAN; 40], &mut y);
        assert!(y.iter().all(|y| y.is_nan()));
    }
}
