//! Eigenvalues of small symmetric matrices in f64.

use crate::{Error, Result};

/// The eigenvalues of a symmetric `[n, n]` matrix in row-major order, unsorted: Householder's reduction to tridiagonal
/// form, then implicit QR steps with Wilkinson's shift (Golub & Van Loan, sections 8.3.1 and 8.3.3). Absolute error of
/// the order of `1e-16 n` times the largest eigenvalue; about `n^3` multiplications.
pub(super) fn symmetric_eigenvalues(matrix: Vec<f64>, n: usize) -> Result<Vec<f64>> {
    if n == 0 {
        return Ok(Vec::new());
    }
    let (mut diagonal, mut off) = tridiagonal(matrix, n);
    diagonalise(&mut diagonal, &mut off)?;
    Ok(diagonal)
}

/// The scalar product in eight lanes, which the compiler keeps in vector registers.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0f64; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// Diagonal (n) and off-diagonal (n - 1) of a similar tridiagonal matrix.
fn tridiagonal(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut off = Vec::with_capacity(n - 1);
    for k in 0..n.saturating_sub(1) {
        // The reflection that turns the rest x of column k into (alpha, 0, ..).
        let mut v: Vec<f64> = (k + 1..n).map(|row| a[row * n + k]).collect();
        let norm = dot(&v, &v).sqrt();
        let rest = dot(&v[1..], &v[1..]);
        if rest == 0.0 {
            off.push(v[0]);
            continue;
        }
        let alpha = if v[0] > 0.0 { -norm } else { norm };
        v[0] -= alpha;
        off.push(alpha);
        // H B H = B - v w' - w v' on the block B that remains, with w = p - (beta p'v / 2) v and p = beta B v.
        let beta = 2.0 / dot(&v, &v);
        let block = |row: usize| row * n + k + 1..row * n + n;
        let mut w: Vec<f64> = (k + 1..n).map(|row| beta * dot(&a[block(row)], &v)).collect();
        let shift = beta / 2.0 * dot(&w, &v);
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= shift * v);
        for (i, row) in (k + 1..n).enumerate() {
            let (vi, wi) = (v[i], w[i]);
            for ((x, v), w) in a[block(row)].iter_mut().zip(&v).zip(&w) {
                *x -= vi * w + wi * v;
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), off)
}

/// Leaves the eigenvalues on the diagonal.
fn diagonalise(d: &mut [f64], e: &mut [f64]) -> Result<()> {
    let scale = d.iter().chain(e.iter()).fold(0f64, |m, x| m.max(x.abs()));
    if d.iter().chain(e.iter()).any(|x| !x.is_finite()) {
        return Err(Error::data("eigenvalues", "the matrix holds values that are not finite"));
    }
    let small = f64::EPSILON * scale;
    let mut high = d.len() - 1;
    // Two steps an eigenvalue are usual.
    for _ in 0..30 * d.len() + 1 {
        while high > 0 && e[high - 1].abs() <= small {
            high -= 1;
        }
        if high == 0 {
            return Ok(());
        }
        let mut low = high - 1;
        while low > 0 && e[low - 1].abs() > small {
            low -= 1;
        }
        qr_step(d, e, low, high);
    }
    Err(Error::data("eigenvalues", "the QR iteration did not converge"))
}

/// One implicit QR step on the unreduced block `low..=high`.
fn qr_step(d: &mut [f64], e: &mut [f64], low: usize, high: usize) {
    let last = e[high - 1];
    let half = (d[high - 1] - d[high]) / 2.0;
    let shift = d[high] - last * last / (half + half.hypot(last).copysign(half));
    let (mut x, mut z) = (d[low] - shift, e[low]);
    for k in low..high {
        let r = x.hypot(z);
        let (c, s) = if r == 0.0 { (1.0, 0.0) } else { (x / r, z / r) };
        if k > low {
            e[k - 1] = r;
        }
        let (a, b, g) = (d[k], e[k], d[k + 1]);
        d[k] = c * c * a + 2.0 * c * s * b + s * s * g;
        d[k + 1] = s * s * a - 2.0 * c * s * b + c * c * g;
        e[k] = c * s * (g - a) + (c * c - s * s) * b;
        if k + 1 < high {
            x = e[k];
            z = s * e[k + 1];
            e[k + 1] *= c;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};

    fn sorted(matrix: Vec<f64>, n: usize) -> Result<Vec<f64>> {
        let mut values = symmetric_eigenvalues(matrix, n)?;
        values.sort_by(f64::total_cmp);
        Ok(values)
    }

    #[test]
    fn known_spectra() -> Result<()> {
        assert_eq!(sorted(vec![5.0], 1)?, [5.0]);
        let two = sorted(vec![2.0, 1.0, 1.0, 2.0], 2)?;
        assert!((two[0] - 1.0).abs() + (two[1] - 3.0).abs() < 1e-14);
        assert_eq!(sorted(vec![0.0; 9], 3)?, [0.0; 3]);
        // The path graph's matrix: 2 - 2 cos(k pi / (n + 1)).
        let n = 60;
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            matrix[i * n + i] = 2.0;
            if i + 1 < n {
                matrix[i * n + i + 1] = -1.0;
                matrix[(i + 1) * n + i] = -1.0;
            }
        }
        for (k, value) in sorted(matrix, n)?.into_iter().enumerate() {
            let want = 2.0 - 2.0 * (std::f64::consts::PI * (k + 1) as f64 / (n + 1) as f64).cos();
            assert!((value - want).abs() < 1e-13, "{k}: {value} {want}");
        }
        assert!(symmetric_eigenvalues(vec![f64::NAN; 4], 2).is_err());
        Ok(())
    }

    #[test]
    fn a_dense_matrix_keeps_its_spectrum() -> Result<()> {
        // A diagonal matrix hidden by random reflections, with clusters and zeros.
        let n = 96;
        let spectrum: Vec<f64> = (0..n).map(|i| [0.0, 0.0, 1.0, 1.0, 7.5][i % 5] + (i / 50) as f64).collect();
        let mut a = vec![0.0; n * n];
        for (i, value) in spectrum.iter().enumerate() {
            a[i * n + i] = *value;
        }
        let mut stream = Key::new(1, Purpose::Data).stream();
        for _ in 0..5 {
            let v: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
            let square = dot(&v, &v);
            for columns in [false, true] {
                for line in 0..n {
                    let at = |i: usize| if columns { i * n + line } else { line * n + i };
                    let factor = 2.0 / square * (0..n).map(|i| a[at(i)] * v[i]).sum::<f64>();
                    for i in 0..n {
                        a[at(i)] -= factor * v[i];
                    }
                }
            }
        }
        let mut want = spectrum;
        want.sort_by(f64::total_cmp);
        for (got, want) in sorted(a, n)?.iter().zip(&want) {
            assert!((got - want).abs() < 1e-12, "{got} {want}");
        }
        Ok(())
    }
}
