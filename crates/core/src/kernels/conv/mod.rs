//! Convolution.
//!
//! The operation and its backward are here; the arithmetic on the CPU is three functions over slices (`forward`,
//! `backward_data`, `backward_weight`), for which [`engine`] chooses between [`winograd`] and [`implicit`] products.
//! Tensors of other devices and types go to [`products`] over Candle's operations, or to cuDNN.

#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
#[cfg(feature = "cudnn")]
mod cudnn;
mod engine;
mod implicit;
mod op;
mod products;
mod shape;
#[cfg(test)]
mod tests;
mod winograd;

use candle_core::Tensor;

use self::shape::ConvShape;
use super::map::{FeatureMap, Form, Native};
use crate::{Error, Result};

/// Stride, padding and groups of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvSettings {
    /// Distance of neighbouring windows, down and across, at least 1.
    pub stride: [usize; 2],
    /// Zeros added at the top, bottom, left and right.
    pub padding: [usize; 4],
    /// Groups that the channels are cut into; both channel counts are multiples of it.
    pub groups: usize,
}

impl Default for ConvSettings {
    fn default() -> Self {
        Self::square(1, 0)
    }
}

impl ConvSettings {
    /// The same stride and padding on every side, one group.
    pub fn square(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 4], groups: 1 }
    }

    /// The same with so many groups.
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }
}

/// Cross-correlation of `x` `[N, C, H, W]` with `w` `[O, C/g, kh, kw]`, plus `bias` `[O]`: `[N, O, OH, OW]` with
/// `OH = floor((H + top + bottom - kh) / stride) + 1`.
///
/// The input gradient is computed only if `x` is part of a graph.
///
/// # Errors
/// [`crate::Error::Shape`] where the operands do not fit each other.
pub fn conv2d(
    x: &FeatureMap,
    w: &Tensor,
    bias: Option<&Tensor>,
    settings: ConvSettings,
) -> Result<FeatureMap> {
    let dims = x.dims();
    let &[n, c, h, width] = dims.as_slice() else {
        return Err(Error::shape("conv2d", "[N, C, H, W]", &dims));
    };
    let ConvSettings { stride, padding, groups } = settings;
    let shape = ConvShape::new([n, c, h, width], w.dims(), stride, padding, groups)?;
    if let Some(bias) = bias
        && bias.dims() != [shape.o]
    {
        return Err(Error::shape("conv2d bias", format!("[{}]", shape.o), bias.dims()));
    }
    Ok(FeatureMap(match &x.0 {
        Form::Native(x) => Form::Native(op::conv(x, w, bias, shape)?),
        Form::Plain(x) => Form::Plain(composed(x, w, bias, &shape)?),
    }))
}

/// Cross-correlation of `x` `[N, C, T]` with `w` `[O, C, k]`, plus `bias` `[O]`: `[N, O, OT]` with
/// `OT = floor((T + before + after - k) / stride) + 1`, where `padding` is the zeros before and after.
///
/// # Errors
/// As [`conv2d`].
pub fn conv1d(
    x: &FeatureMap,
    w: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: [usize; 2],
) -> Result<FeatureMap> {
    let dims = x.dims();
    let &[n, c, t] = dims.as_slice() else { return Err(Error::shape("conv1d", "[N, C, T]", &dims)) };
    let &[o, inputs, k] = w.dims() else {
        return Err(Error::shape("conv1d weight", "[O, C, k]", w.dims()));
    };
    let padding = [0, 0, padding[0], padding[1]];
    let shape = ConvShape::new([n, c, 1, t], &[o, inputs, 1, k], [1, stride], padding, 1)?;
    if let Some(bias) = bias
        && bias.dims() != [o]
    {
        return Err(Error::shape("conv1d bias", format!("[{o}]"), bias.dims()));
    }
    Ok(FeatureMap(match &x.0 {
        // Row by row, a map of height 1 lies in memory as a sequence does.
        Form::Native(x) => {
            Form::Native(Native { dims: vec![n, shape.ow, o], ..op::conv(x, w, bias, shape)? })
        }
        Form::Plain(x) => {
            Form::Plain(composed(&x.unsqueeze(2)?, &w.unsqueeze(2)?, bias, &shape)?.squeeze(2)?)
        }
    }))
}

/// The twin for other tensors: by cuDNN where it is compiled in and takes the operands, by matrix products elsewhere.
fn composed(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, shape: &ConvShape) -> Result<Tensor> {
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    #[cfg(feature = "cudnn")]
    let y =
        if cudnn::takes(&x, shape) { cudnn::conv(&x, &w, shape)? } else { products::conv(&x, &w, *shape)? };
    #[cfg(not(feature = "cudnn"))]
    let y = products::conv(&x, &w, *shape)?;
    match bias {
        None => Ok(y),
        Some(bias) => Ok(y.broadcast_add(&bias.reshape((1, shape.o, 1, 1))?)?),
    }
}
