//! Two-dimensional convolution.
//!
//! The operation and its backward are here; the arithmetic is an engine of three functions (`forward`,
//! `backward_data`, `backward_weight` over slices and a `Geometry`): [`direct`] for the shapes it is good at, [`im2col`]
//! for all others, as [`engine`] chooses.

mod direct;
mod engine;
mod geometry;
mod im2col;
mod planes;
#[allow(dead_code)]
mod shape;
mod simd;
#[cfg(test)]
mod tests;

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use self::geometry::Geometry;
use super::{is_native, storage};
use crate::Result;

/// Stride, padding and groups of [`conv2d`], the same for both axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvSettings {
    /// Distance of neighbouring windows, at least 1.
    pub stride: usize,
    /// Zeros added on every side.
    pub padding: usize,
    /// Groups that the channels are cut into; both channel counts are multiples of it.
    pub groups: usize,
}

impl Default for ConvSettings {
    fn default() -> Self {
        Self { stride: 1, padding: 0, groups: 1 }
    }
}

/// Cross-correlation of `x` `[N, C, H, W]` with `w` `[O, C/g, kh, kw]`: `[N, O, OH, OW]` with
/// `OH = floor((H + 2 * padding - kh) / stride) + 1`.
///
/// The input gradient is computed only if `x` is part of a graph.
///
/// # Errors
/// [`crate::Error::Shape`] where the operands do not fit each other.
pub fn conv2d(x: &Tensor, w: &Tensor, settings: ConvSettings) -> Result<Tensor> {
    let geo = Geometry::new(x.dims(), w.dims(), settings.stride, settings.padding, settings.groups)?;
    if is_native(x) {
        return Ok(x.contiguous()?.apply_op2(&w.contiguous()?, Conv2dOp { geo })?);
    }
    composed(x, w, &geo)
}

/// The twin for other devices. Candle pads the input gradient of a strided convolution by the remainder of the height
/// alone, so strided inputs are padded and cut here to leave no remainder.
fn composed(x: &Tensor, w: &Tensor, geo: &Geometry) -> Result<Tensor> {
    if geo.stride == 1 {
        return Ok(x.conv2d(w, geo.pad_h, 1, 1, geo.groups)?);
    }
    let x = x.pad_with_zeros(2, geo.pad_h, geo.pad_h)?.pad_with_zeros(3, geo.pad_w, geo.pad_w)?;
    let x = x.narrow(2, 0, (geo.oh - 1) * geo.stride + geo.kh)?;
    let x = x.narrow(3, 0, (geo.ow - 1) * geo.stride + geo.kw)?;
    Ok(x.contiguous()?.conv2d(w, 0, geo.stride, 1, geo.groups)?)
}

#[derive(Debug)]
struct Conv2dOp {
    geo: Geometry,
}

impl CustomOp2 for Conv2dOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let geo = &self.geo;
        let out = engine::forward(geo, storage::slice(x, x_layout)?, storage::slice(w, w_layout)?);
        Ok((CpuStorage::F32(out), (geo.n, geo.o, geo.oh, geo.ow).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _out: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let geo = &self.geo;
        storage::with(dy, |dy_data| {
            let dw = if w.track_op() {
                let dw = storage::with(x, |x| Ok(engine::backward_weight(geo, x, dy_data)))?;
                Some(Tensor::from_vec(dw, w.shape(), w.device())?)
            } else {
                None
            };
            let dx = if x.track_op() {
                let dx = storage::with(w, |w| Ok(engine::backward_data(geo, dy_data, w)))?;
                Some(Tensor::from_vec(dx, x.shape(), x.device())?)
            } else {
                None
            };
            Ok((dx, dw))
        })
    }
}
