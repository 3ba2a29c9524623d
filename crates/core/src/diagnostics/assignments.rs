//! A measure over distributions.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// What distributions `[N, K]` say of their samples: the mutual information of sample and dimension, which is the entropy
/// of the mean distribution less the mean of the entropies, as a fraction of the most possible, `ln min(N, K)`. It is 0
/// where all distributions are alike, be they uniform or certain of one and the same dimension (the two collapses of
/// DINO's section 5.3), and 1 where every sample is certain of a dimension of its own.
///
/// # Errors
/// Another rank, N or K below 2.
pub fn information(distributions: &Tensor) -> Result<f64> {
    let (n, k) = match distributions.dims() {
        &[n, k] if n >= 2 && k >= 2 => (n, k),
        dims => return Err(Error::shape("assignments", "[N, K] with both at least 2", dims)),
    };
    let p = distributions.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let mut mean = vec![0f64; k];
    for row in p.chunks(k) {
        mean.iter_mut().zip(row).for_each(|(mean, p)| *mean += f64::from(*p) / n as f64);
    }
    // The divergence of each from the mean, whose terms do not cancel where all are alike.
    let term =
        |(&p, &mean): (&f32, &f64)| if p == 0.0 { 0.0 } else { f64::from(p) * (f64::from(p) / mean).ln() };
    let divergence: f64 = p.chunks(k).flat_map(|row| row.iter().zip(&mean)).map(term).sum();
    Ok(divergence / n as f64 / (n.min(k) as f64).ln())
}
