//! Images to their overlapping patches.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::{Error, Result};

/// A smaller crop of every patch, with zeros around it: what is left of a patch lies in its middle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatchCrops {
    /// Side of the crops in pixels.
    pub side: usize,
    /// Row and column within its patch at which each crop begins, for the patches in order.
    pub corners: Vec<[usize; 2]>,
}

/// The patches of `patch` x `patch` pixels, `stride` apart, of images `[N, C, H, W]`: `[N * rows * cols, C, patch, patch]`,
/// sample by sample and row by row, outside any graph: images take no gradient.
///
/// With `crops` each patch shows only a crop of it, between zeros: `(patch - side) / 2` rows and columns of them before,
/// the rest behind.
///
/// # Errors
/// [`Error::Shape`] for other than four axes, images smaller than a patch, a crop that is not inside its patch.
pub fn patches(x: &Tensor, patch: usize, stride: usize, crops: Option<&PatchCrops>) -> Result<Tensor> {
    let &[n, c, h, w] = x.dims() else {
        return Err(Error::shape("patches", "[N, C, H, W]", x.dims()));
    };
    if patch == 0 || stride == 0 || h < patch || w < patch || n * c == 0 {
        return Err(Error::shape("patches", format!("images of {patch} pixels or more"), x.dims()));
    }
    let (rows, columns) = ((h - patch) / stride + 1, (w - patch) / stride + 1);
    let count = n * rows * columns;
    if let Some(PatchCrops { side, corners }) = crops {
        let inside = |&[y, x]: &[usize; 2]| y + side <= patch && x + side <= patch;
        if *side == 0 || corners.len() != count || !corners.iter().all(inside) {
            let expected = format!("{count} crops inside of patches of {patch} pixels");
            return Err(Error::shape("patch crops", expected, &[corners.len(), *side]));
        }
    }
    let pixels = x.detach().to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let mut out = vec![0f32; count * c * patch * patch];
    out.par_chunks_mut(c * patch * patch).enumerate().for_each(|(i, out)| {
        let (sample, place) = (i / (rows * columns), i % (rows * columns));
        let (top, left) = (place / columns * stride, place % columns * stride);
        let (side, [y, x]) = crops.map_or((patch, [0, 0]), |crops| (crops.side, crops.corners[i]));
        let margin = (patch - side) / 2;
        for channel in 0..c {
            for row in 0..side {
                let from = ((sample * c + channel) * h + top + y + row) * w + left + x;
                let to = (channel * patch + margin + row) * patch + margin;
                out[to..to + side].copy_from_slice(&pixels[from..from + side]);
            }
        }
    });
    let out = Tensor::from_vec(out, (count, c, patch, patch), &Device::Cpu)?;
    Ok(out.to_device(x.device())?.to_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(shape: [usize; 4]) -> Result<Tensor> {
        let values = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect::<Vec<_>>();
        Ok(Tensor::from_vec(values, shape.to_vec(), &Device::Cpu)?)
    }

    #[test]
    fn patches_are_those_that_narrowing_gives() -> Result<()> {
        let x = numbered([2, 3, 9, 12])?;
        let (patch, stride) = (4, 2);
        let got = patches(&x, patch, stride, None)?;
        let (rows, columns) = (3, 5);
        assert_eq!(got.dims(), [2 * rows * columns, 3, 4, 4]);
        for sample in 0..2 {
            for row in 0..rows {
                for column in 0..columns {
                    let want =
                        x.get(sample)?.narrow(1, row * stride, patch)?.narrow(2, column * stride, patch)?;
                    let got = got.get((sample * rows + row) * columns + column)?;
                    assert_eq!(got.flatten_all()?.to_vec1::<f32>()?, want.flatten_all()?.to_vec1::<f32>()?);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn crops_lie_between_zeros() -> Result<()> {
        let x = (numbered([1, 1, 4, 6])? + 1.0)?;
        let crops = PatchCrops { side: 2, corners: vec![[0, 1], [2, 2]] };
        let got = patches(&x, 4, 2, Some(&crops))?.flatten_all()?.to_vec1::<f32>()?;
        #[rustfmt::skip]
        let want = [
            0., 0., 0., 0.,  0., 2., 3., 0.,  0., 8., 9., 0.,  0., 0., 0., 0.,
            0., 0., 0., 0.,  0., 17., 18., 0.,  0., 23., 24., 0.,  0., 0., 0., 0.,
        ];
        assert_eq!(got, want);
        Ok(())
    }

    #[test]
    fn refuses_what_does_not_fit() -> Result<()> {
        let x = numbered([1, 1, 4, 6])?;
        assert!(patches(&x, 5, 1, None).is_err());
        assert!(patches(&x, 4, 0, None).is_err());
        assert!(patches(&x.squeeze(0)?, 4, 2, None).is_err());
        for corners in [vec![[0, 0]], vec![[0, 0], [3, 0]]] {
            assert!(patches(&x, 4, 2, Some(&PatchCrops { side: 2, corners })).is_err());
        }
        Ok(())
    }
}
