//! Measures over a batch of embeddings.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::eigen::{dot, symmetric_eigenvalues};
use crate::{Error, Result};

/// A dimension is dead when its standard deviation is below this fraction of the largest one.
const DEAD: f64 = 0.01;

/// A batch of embeddings `[N, D]` on the host, with its measures.
#[derive(Debug, Clone)]
pub struct Embeddings {
    n: usize,
    d: usize,
    /// Row-major.
    values: Vec<f64>,
}

impl Embeddings {
    /// From a tensor `[N, D]` of any float type on any device.
    ///
    /// # Errors
    /// Another rank, N below 2 or D of 0: no measure is defined there.
    pub fn new(z: &Tensor) -> Result<Self> {
        let (n, d) = match z.dims() {
            &[n, d] if n >= 2 && d >= 1 => (n, d),
            dims => return Err(Error::shape("embeddings", "[N, D] with N at least 2", dims)),
        };
        let values = z.detach().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Self { n, d, values: values.into_iter().map(f64::from).collect() })
    }

    /// At most `max` rows, evenly spaced through the batch: `floor(i N / max)`. The same rows for every batch of this
    /// size, so two views keep their pairs.
    #[must_use]
    pub fn subset(&self, max: usize) -> Self {
        let max = max.max(2);
        if self.n <= max {
            return self.clone();
        }
        let values = (0..max).flat_map(|i| self.row(i * self.n / max)).copied().collect();
        Self { n: max, d: self.d, values }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.n
    }

    /// The number of dimensions.
    pub fn dimensions(&self) -> usize {
        self.d
    }

    /// Whether every value is a number.
    pub fn is_finite(&self) -> bool {
        self.values.iter().all(|x| x.is_finite())
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.d..(i + 1) * self.d]
    }

    /// Rows scaled to unit l2 norm (`x / max(|x|, 1e-12)`). All measures but [`Embeddings::effective_rank`] expect it.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        for row in self.values.chunks_mut(self.d) {
            let norm = dot(row, row).sqrt().max(1e-12);
            row.iter_mut().for_each(|x| *x /= norm);
        }
        self
    }

    /// The standard deviation of each dimension over the batch, with the divisor N - 1.
    pub fn standard_deviations(&self) -> Vec<f64> {
        let mut means = vec![0f64; self.d];
        for row in self.values.chunks(self.d) {
            means.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
        }
        means.iter_mut().for_each(|mean| *mean /= self.n as f64);
        let mut squares = vec![0f64; self.d];
        for row in self.values.chunks(self.d) {
            for ((square, x), mean) in squares.iter_mut().zip(row).zip(&means) {
                *square += (x - mean) * (x - mean);
            }
        }
        squares.into_iter().map(|square| (square / (self.n - 1) as f64).sqrt()).collect()
    }

    /// The mean over dimensions of the standard deviation, times `sqrt(D)`, of normalised rows: close to 1 where they
    /// spread over the whole sphere, 0 where all are one point (Chen & He 2021, section 4.1).
    pub fn spread(&self) -> f64 {
        self.standard_deviations().iter().sum::<f64>() / (self.d as f64).sqrt()
    }

    /// The fraction of dimensions whose standard deviation is below 1/100 of the largest dimension's; 1 where nothing
    /// varies at all.
    pub fn dead_fraction(&self) -> f64 {
        let deviations = self.standard_deviations();
        let largest = deviations.iter().fold(0f64, |m, &x| m.max(x));
        let dead = deviations.iter().filter(|&&x| x == 0.0 || x < DEAD * largest).count();
        dead as f64 / self.d as f64
    }

    /// RankMe (Garrido et al. 2023, equations 1 and 2): `exp(-Σ p_k ln p_k)` with `p_k = σ_k / Σσ + 1e-7`, where σ are
    /// the `min(N, D)` singular values of the `[N, D]` matrix as it is, neither centred nor normalised. Between 1 (one
    /// direction) and `min(N, D)` (all alike); 0 for a matrix of zeros.
    ///
    /// The σ are the roots of the eigenvalues of the smaller of the two Gram matrices, in f64. The cost grows with the
    /// cube of `min(N, D)`: bound the rows with [`Embeddings::subset`].
    ///
    /// # Errors
    /// Values that are not finite.
    pub fn effective_rank(&self) -> Result<f64> {
        let (k, m) = (self.n.min(self.d), self.n.max(self.d));
        let transposed: Vec<f64>;
        let lines = if self.n <= self.d {
            &self.values
        } else {
            let columns = (0..self.d).flat_map(|j| self.values[j..].iter().step_by(self.d));
            transposed = columns.copied().collect();
            &transposed
        };
        let line = |i: usize| &lines[i * m..(i + 1) * m];
        let lower: Vec<Vec<f64>> =
            (0..k).into_par_iter().map(|i| (0..=i).map(|j| dot(line(i), line(j))).collect()).collect();
        let mut gram = vec![0f64; k * k];
        for (i, row) in lower.iter().enumerate() {
            for (j, &x) in row.iter().enumerate() {
                gram[i * k + j] = x;
                gram[j * k + i] = x;
            }
        }
        let mut sigma = symmetric_eigenvalues(gram, k)?;
        sigma.iter_mut().for_each(|x| *x = x.max(0.0).sqrt());
        let total: f64 = sigma.iter().sum();
        if total == 0.0 {
            return Ok(0.0);
        }
        let entropy = sigma.iter().map(|s| s / total + 1e-7).map(|p| -p * p.ln()).sum::<f64>();
        Ok(entropy.exp())
    }

    /// `mean |x - y|^2` over the pairs (row i here, row i there) of normalised rows: 0 where both views of a sample meet,
    /// 2 for unrelated points (Wang & Isola 2020, α = 2).
    ///
    /// # Errors
    /// Another shape there.
    pub fn alignment(&self, other: &Self) -> Result<f64> {
        if (self.n, self.d) != (other.n, other.d) {
            return Err(Error::shape("alignment", format!("[{}, {}]", self.n, self.d), &[other.n, other.d]));
        }
        let squares = self.values.iter().zip(&other.values).map(|(x, y)| (x - y) * (x - y));
        Ok(squares.sum::<f64>() / self.n as f64)
    }

    /// `ln mean exp(-2 |x - y|^2)` over all pairs of normalised rows: about -4 spread over the sphere, 0 for one point
    /// (Wang & Isola 2020, t = 2). The cost grows with N squared: bound the rows with [`Embeddings::subset`].
    pub fn uniformity(&self) -> f64 {
        let squares: Vec<f64> = (0..self.n).map(|i| dot(self.row(i), self.row(i))).collect();
        let potential = |i: usize, j: usize| {
            let distance = squares[i] + squares[j] - 2.0 * dot(self.row(i), self.row(j));
            (-2.0 * distance).exp()
        };
        let sums: Vec<f64> =
            (1..self.n).into_par_iter().map(|i| (0..i).map(|j| potential(i, j)).sum()).collect();
        let pairs = self.n * (self.n - 1) / 2;
        (sums.iter().sum::<f64>() / pairs as f64).ln()
    }
}
