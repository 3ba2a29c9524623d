//! Position embeddings for images of another size.

use candle_core::Tensor;

use crate::Result;

/// How a grid of position embeddings is turned into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// DINO's: bicubic without antialiasing, at a scale that is a tenth of a patch too large (a guard against rounding
    /// in its code that moves the sampling points, and so belongs to its weights).
    #[default]
    Dino,
    /// timm's: bicubic with antialiasing.
    Antialiased,
}

/// Positions `[1 + h w, D]` for a grid `[h, w]` from those of a square grid, `[1 + side², D]`. The first row, the class
/// token's, stays. Differentiable.
///
/// # Errors
/// Candle's.
pub(super) fn interpolate(
    positions: &Tensor,
    side: usize,
    [h, w]: [usize; 2],
    kind: Interpolation,
) -> Result<Tensor> {
    if [h, w] == [side, side] {
        return Ok(positions.clone());
    }
    let (rows, columns) = (weights(side, h, kind), weights(side, w, kind));
    // Bicubic interpolation is a product with a fixed matrix `[h w, side²]`.
    let mut matrix = vec![0f32; h * w * side * side];
    for (y, row) in rows.iter().enumerate() {
        for (x, column) in columns.iter().enumerate() {
            let out = &mut matrix[(y * w + x) * side * side..][..side * side];
            for (i, a) in row.iter().enumerate() {
                for (j, b) in column.iter().enumerate() {
                    out[i * side + j] = (a * b) as f32;
                }
            }
        }
    }
    let matrix = Tensor::from_vec(matrix, (h * w, side * side), positions.device())?;
    let cls = positions.narrow(0, 0, 1)?;
    let grid = positions.narrow(0, 1, side * side)?;
    Ok(Tensor::cat(&[cls, matrix.to_dtype(positions.dtype())?.matmul(&grid)?], 0)?)
}

/// Keys' cubic kernel.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// The matrix `[to, from]` of one axis.
fn weights(from: usize, to: usize, kind: Interpolation) -> Vec<Vec<f64>> {
    let sample = |place: usize| {
        let mut row = vec![0.0; from];
        match kind {
            Interpolation::Dino => {
                let scale = (to as f64 + 0.1) / from as f64;
                let centre = (place as f64 + 0.5) / scale - 0.5;
                let first = centre.floor() as isize - 1;
                for tap in first..first + 4 {
                    // Beyond the border its value is repeated.
                    let at = tap.clamp(0, from as isize - 1) as usize;
                    row[at] += cubic(tap as f64 - centre, -0.75);
                }
            }
            Interpolation::Antialiased => {
                let step = from as f64 / to as f64;
                let stretch = step.max(1.0);
                let centre = (place as f64 + 0.5) * step;
                let first = (centre - 2.0 * stretch + 0.5).floor().max(0.0) as usize;
                let end = ((centre + 2.0 * stretch + 0.5).floor() as usize).min(from);
                for (at, weight) in row.iter_mut().enumerate().take(end).skip(first) {
                    *weight = cubic((at as f64 - centre + 0.5) / stretch, -0.5);
                }
                let total: f64 = row.iter().sum();
                row.iter_mut().for_each(|weight| *weight /= total);
            }
        }
        row
    };
    (0..to).map(sample).collect()
}
