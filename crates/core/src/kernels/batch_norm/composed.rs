//! The twin for other devices and element types, from Candle's operations.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};

use super::{BatchStatistics, Extents, Settings, Statistics};
use crate::Result;
use crate::dist::Comm;
use crate::kernels::activation;

/// The operands of the twin: `[N, C, ...]`.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub x: &'a Tensor,
    pub affine: &'a Tensor,
    pub residual: Option<&'a Tensor>,
    pub settings: Settings,
}

pub(super) fn train(
    args: Operands,
    e: Extents,
    statistics: &Statistics,
) -> Result<(Tensor, BatchStatistics)> {
    // [G, N/G, C, P] to [G, C, N/G * P], whose last axis Candle sums fast and in lanes.
    let per_group = e.n / e.groups;
    let x = args.x.reshape((e.groups, per_group, e.c, e.plane))?.transpose(1, 2)?.contiguous()?;
    let x = x.reshape((e.groups, e.c, per_group * e.plane))?;
    let mut count = per_group * e.plane;
    let comm = match statistics {
        Statistics::Sync(comm) if comm.size() > 1 => Some(comm),
        _ => None,
    };
    if let Some(comm) = comm {
        let total = comm.all_reduce_sum(&Tensor::new(&[count as f64], &Device::Cpu)?)?;
        count = total.to_vec1::<f64>()?.first().copied().unwrap_or_default().round() as usize;
    }
    if count < 2 {
        return Err(super::too_few(args.x.dims()));
    }
    let mean_of = |t: Tensor| -> Result<Tensor> {
        let sum = t.sum_keepdim(2)?;
        Ok((all_reduce(&sum, comm)? * (1.0 / count as f64))?)
    };
    let mean = mean_of(x.clone())?;
    let centred = x.broadcast_sub(&mean)?;
    let var = mean_of(centred.sqr()?)?;
    let normal = centred.broadcast_div(&(&var + args.settings.eps)?.sqrt()?)?;
    let normal = normal.reshape((e.groups, e.c, per_group, e.plane))?.transpose(1, 2)?.contiguous()?;
    let y = finish(args, e, normal.reshape((e.n, e.c, e.plane))?)?;
    let flat = |t: &Tensor| t.detach().reshape((e.groups, e.c));
    Ok((y, BatchStatistics { mean: flat(&mean)?, var: flat(&var)?, count }))
}

pub(super) fn fixed(args: Operands, e: Extents, mean: &Tensor, var: &Tensor) -> Result<Tensor> {
    let row =
        |t: &Tensor| -> Result<Tensor> { Ok(t.detach().to_dtype(args.x.dtype())?.reshape((1, e.c, 1))?) };
    let x = args.x.reshape((e.n, e.c, e.plane))?;
    let std = (row(var)? + args.settings.eps)?.sqrt()?;
    finish(args, e, x.broadcast_sub(&row(mean)?)?.broadcast_div(&std)?)
}

/// Scale, shift, residual and ReLU on `[N, C, P]`.
fn finish(args: Operands, e: Extents, normal: Tensor) -> Result<Tensor> {
    let affine = args.affine.to_dtype(normal.dtype())?.reshape((2, 1, e.c, 1))?;
    let y = normal.broadcast_mul(&affine.get(0)?)?.broadcast_add(&affine.get(1)?)?;
    let mut y = y.reshape(args.x.shape())?;
    if let Some(residual) = args.residual {
        y = (y + residual)?;
    }
    if args.settings.relu { activation::composed(&y) } else { Ok(y) }
}

/// The sum over ranks, whose gradient is the sum of the ranks' gradients.
fn all_reduce(x: &Tensor, comm: Option<&Comm>) -> Result<Tensor> {
    let Some(comm) = comm else { return Ok(x.clone()) };
    // The sums are small; on the CPU they need no device code.
    let local = x.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
    let total = local.apply_op1(AllReduceOp { comm: comm.clone() })?;
    Ok(total.to_device(x.device())?.to_dtype(x.dtype())?)
}

struct AllReduceOp {
    comm: Comm,
}

impl CustomOp1 for AllReduceOp {
    fn name(&self) -> &'static str {
        "all_reduce_sum"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = crate::kernels::storage::slice(x, layout)?;
        let x = Tensor::from_slice(x, layout.shape(), &Device::Cpu)?;
        let sum = self.comm.all_reduce_sum(&x).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(sum.flatten_all()?.to_vec1()?), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let sum = self.comm.all_reduce_sum(&dy.contiguous()?).map_err(candle_core::Error::wrap)?;
        Ok(Some(sum.detach()))
    }
}
