//! Dense products on the host for the protocols: one block per call, one thread per block.
//!
//! The callers cut their work into blocks of a fixed size and hand whole blocks to threads, so that every element is
//! summed in the same order for any number of threads.

use std::ops::{Add, AddAssign, Div, Mul, Sub};

use super::skinny;

/// The two element types that the protocols compute in.
pub(super) trait Scalar:
    Copy
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    /// Elements of a padded row are a multiple of this.
    const LANES: usize;
    fn wide(self) -> f64;
    fn exp(self) -> Self;
    /// `out = x w` with few, padded columns; see [`skinny`].
    fn forward(x: &[Self], dim: usize, w: &[Self], width: usize, out: &mut [Self]);
    /// `out = x^T d` with few, padded columns.
    fn backward(x: &[Self], dim: usize, d: &[Self], width: usize, out: &mut [Self]);
}

impl Scalar for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LANES: usize = 16;
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn exp(self) -> Self {
        f32::exp(self)
    }
    fn forward(x: &[Self], dim: usize, w: &[Self], width: usize, out: &mut [Self]) {
        skinny::forward_f32(x, dim, w, width, out);
    }
    fn backward(x: &[Self], dim: usize, d: &[Self], width: usize, out: &mut [Self]) {
        skinny::backward_f32(x, dim, d, width, out);
    }
}

impl Scalar for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const LANES: usize = 8;
    fn wide(self) -> f64 {
        self
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn forward(x: &[Self], dim: usize, w: &[Self], width: usize, out: &mut [Self]) {
        skinny::forward_f64(x, dim, w, width, out);
    }
    fn backward(x: &[Self], dim: usize, d: &[Self], width: usize, out: &mut [Self]) {
        skinny::backward_f64(x, dim, d, width, out);
    }
}

/// A borrowed matrix with the distances between its rows and its columns.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// The first `rows * columns` elements of `data`, row by row.
    pub(super) fn row_major(data: &'a [T], rows: usize, columns: usize) -> Self {
        assert!(data.len() >= rows * columns, "matrix of {rows} x {columns} in {} elements", data.len());
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transposed view.
    pub(super) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// `out = a b`, with `out` row-major. The sizes are the caller's invariant; they are asserted because the product
/// itself works on raw pointers.
pub(super) fn product<T: Scalar>(out: &mut [T], a: Matrix<'_, T>, b: Matrix<'_, T>) {
    assert!(a.columns == b.rows && out.len() >= a.rows * b.columns, "matrix product: sizes do not fit");
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    // SAFETY: `row_major` checked that each operand lies within its slice (and `transposed` only swaps the strides),
    // the assertion above that `out` holds all rows and columns; `out` is borrowed mutably, so nothing overlaps. T is
    // f32 or f64, which the crate supports. Lengths of slices are below isize::MAX.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            b.columns as isize,
            false,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::ZERO,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_of_views_equals_the_definition() {
        let a: Vec<f64> = (0..15).map(|i| f64::from(i) * 0.5 - 2.0).collect();
        let b: Vec<f64> = (0..35).map(|i| f64::from(i % 7) - 3.0).collect();
        for transposed in [false, true] {
            let mut out = vec![f64::NAN; 21];
            let right = if transposed {
                Matrix::row_major(&b, 7, 5).transposed()
            } else {
                Matrix::row_major(&b, 5, 7)
            };
            product(&mut out, Matrix::row_major(&a, 3, 5), right);
            for i in 0..3 {
                for j in 0..7 {
                    let at = |k: usize| if transposed { b[j * 5 + k] } else { b[k * 7 + j] };
                    let sum: f64 = (0..5).map(|k| a[i * 5 + k] * at(k)).sum();
                    assert!((out[i * 7 + j] - sum).abs() < 1e-12);
                }
            }
        }
    }
}
