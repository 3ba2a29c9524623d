//! Products of rows with rows.

use candle_core::Tensor;

use crate::Result;
use crate::kernels::{FeatureMap, Precision, is_native, linear, with_precision};

/// `x yᵀ`: rows `[N, D]` and `[M, D]` to `[N, M]`. Both may be part of a graph.
///
/// On the CPU these are the products of our layers, in single precision whatever the layers round to: the terms of a sum
/// have one order on every machine, where Candle's product cuts long sums as the caches ask for.
///
/// # Errors
/// Shapes that do not fit.
pub fn inner_products(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if !is_native(x) || !is_native(y) {
        return Ok(x.matmul(&y.t()?)?);
    }
    with_precision(Precision::F32, || linear(&FeatureMap::from_rows(x)?, y, None)?.rows())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_close, random};
    use crate::tensor::{GradCheck, check_gradients};

    #[test]
    fn are_those_of_a_matrix_product_with_gradients() -> Result<()> {
        for (n, m, d) in [(3, 5, 7), (1, 300, 20), (40, 1, 1)] {
            let inputs = [random("x", &[n, d])?, random("y", &[m, d])?];
            let expected = inputs[0].matmul(&inputs[1].t()?)?;
            for precision in [Precision::F32, Precision::Bf16] {
                let got = with_precision(precision, || inner_products(&inputs[0], &inputs[1]))?;
                assert_close(&got, &expected, &format!("{precision:?}, {n} x {m} x {d}"))?;
            }
            check_gradients(&inputs, GradCheck::default(), |x| inner_products(&x[0], &x[1]))?;
        }
        assert!(inner_products(&random("x", &[2, 3])?, &random("y", &[2, 4])?).is_err());
        Ok(())
    }
}
