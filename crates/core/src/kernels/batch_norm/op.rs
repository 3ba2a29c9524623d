//! The CPU operation: two or three operands, statistics kept between the passes.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result as CandleResult, Shape, Tensor};

use super::cpu::{self, Moments, Pass};
use super::{BatchNormArgs, BatchStatistics, Extents, Statistics};
use crate::dist::Comm;
use crate::kernels::{activation, storage};
use crate::{Error, Result};

/// Batch moments of a training pass. `var` is biased.
struct Batch {
    mean: Vec<f32>,
    var: Vec<f32>,
    count: usize,
}

pub(super) fn train(
    args: BatchNormArgs,
    e: Extents,
    statistics: &Statistics,
) -> Result<(Tensor, BatchStatistics)> {
    let comm = match statistics {
        Statistics::Sync(comm) if comm.size() > 1 => Some(comm.clone()),
        _ => None,
    };
    let x = args.x.contiguous()?;
    let batch = storage::with(&x, |data| measure(&e, data, comm.as_ref()).map_err(candle_core::Error::wrap))?;
    if batch.count < 2 {
        return Err(super::too_few(args.x));
    }
    let inv_std = batch.var.iter().map(|&v| (1.0 / (f64::from(v) + args.eps).sqrt()) as f32).collect();
    let shape = (e.groups, e.c);
    let seen = BatchStatistics {
        mean: Tensor::from_slice(&batch.mean, shape, &Device::Cpu)?,
        var: Tensor::from_vec(batch.var, shape, &Device::Cpu)?,
        count: batch.count,
    };
    let moments = Moments { mean: batch.mean, inv_std };
    let op = BatchNormOp { e, moments, relu: args.relu, count: Some(batch.count), comm };
    Ok((apply(args, &x, op)?, seen))
}

fn measure(e: &Extents, x: &[f32], comm: Option<&Comm>) -> Result<Batch> {
    let local = e.n / e.groups * e.plane;
    let mut sums = cpu::sum(e, x);
    let mut count = local;
    if let Some(comm) = comm {
        sums.push(local as f64);
        sums = reduce(comm, &sums)?;
        count = sums.pop().unwrap_or_default().round() as usize;
    }
    let mean: Vec<f32> = sums.iter().map(|s| (s / count as f64) as f32).collect();
    let mut squares = cpu::sum_centred_squares(e, x, &mean);
    if let Some(comm) = comm {
        squares = reduce(comm, &squares)?;
    }
    let var = squares.iter().map(|s| (s / count as f64) as f32).collect();
    Ok(Batch { mean, var, count })
}

/// The sum over ranks, in f64: a rank count in f32 would be exact only up to 2^24.
fn reduce(comm: &Comm, values: &[f64]) -> Result<Vec<f64>> {
    let sum = comm.all_reduce_sum(&Tensor::from_slice(values, values.len(), &Device::Cpu)?)?;
    if sum.elem_count() != values.len() {
        return Err(Error::Rank { rank: comm.rank(), reason: "batch norm sums of another length".into() });
    }
    Ok(sum.to_vec1::<f64>()?)
}

pub(super) fn fixed(args: BatchNormArgs, e: Extents, mean: &Tensor, var: &Tensor) -> Result<Tensor> {
    let inv_std =
        var.to_vec1::<f32>()?.iter().map(|&v| (1.0 / (f64::from(v) + args.eps).sqrt()) as f32).collect();
    let moments = Moments { mean: mean.to_vec1()?, inv_std };
    let op = BatchNormOp { e, moments, relu: args.relu, count: None, comm: None };
    apply(args, &args.x.contiguous()?, op)
}

fn apply(args: BatchNormArgs, x: &Tensor, op: BatchNormOp) -> Result<Tensor> {
    let affine = args.affine.contiguous()?;
    Ok(match args.residual {
        None => x.apply_op2(&affine, op)?,
        Some(residual) => x.apply_op3(&affine, &residual.contiguous()?, op)?,
    })
}

struct BatchNormOp {
    e: Extents,
    moments: Moments,
    relu: bool,
    /// Values per channel behind the moments; none if they are fixed.
    count: Option<usize>,
    comm: Option<Comm>,
}

impl BatchNormOp {
    fn pass<'a>(&'a self, x: &'a [f32], affine: &'a [f32]) -> Pass<'a> {
        Pass { e: self.e, x, affine, moments: &self.moments, relu: self.relu }
    }

    /// Gradients of `x` and of gamma and beta.
    fn gradients(
        &self,
        x: &Tensor,
        affine: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let e = self.e;
        storage::with(x, |x_data| {
            storage::with(y, |y| {
                storage::with(dy, |dy| {
                    let affine_data = affine.flatten_all()?.to_vec1::<f32>()?;
                    let pass = self.pass(x_data, &affine_data);
                    let sums = pass.gradient_sums(y, dy);
                    let d_affine = affine.track_op().then(|| {
                        // Rows of the sums: beta's gradient, then gamma's.
                        let total = |row: usize, c: usize| -> f32 {
                            (0..e.groups).map(|g| sums[(g * 2 + row) * e.c + c]).sum::<f64>() as f32
                        };
                        let rows = [1, 0].into_iter().flat_map(|row| (0..e.c).map(move |c| (row, c)));
                        rows.map(|(row, c)| total(row, c)).collect::<Vec<f32>>()
                    });
                    let d_affine =
                        d_affine.map(|d| Tensor::from_vec(d, (2, e.c), affine.device())).transpose()?;
                    if !x.track_op() {
                        return Ok((None, d_affine));
                    }
                    let means = self.means(sums)?;
                    let dx = pass.backward(y, dy, &means);
                    Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), d_affine))
                })
            })
        })
    }

    /// From sums of this rank to means over the values behind the moments.
    fn means(&self, mut sums: Vec<f64>) -> CandleResult<Vec<f64>> {
        let Some(count) = self.count else { return Ok(vec![0.0; sums.len()]) };
        if let Some(comm) = &self.comm {
            sums = reduce(comm, &sums).map_err(candle_core::Error::wrap)?;
        }
        sums.iter_mut().for_each(|s| *s /= count as f64);
        Ok(sums)
    }
}

impl CustomOp2 for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let pass = self.pass(storage::slice(x, x_layout)?, storage::slice(affine, affine_layout)?);
        Ok((CpuStorage::F32(pass.forward(None)), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        affine: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        self.gradients(x, affine, y, dy)
    }
}

impl CustomOp3 for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm_residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        affine: &CpuStorage,
        affine_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let pass = self.pass(storage::slice(x, x_layout)?, storage::slice(affine, affine_layout)?);
        let residual = storage::slice(residual, residual_layout)?;
        Ok((CpuStorage::F32(pass.forward(Some(residual))), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        affine: &Tensor,
        residual: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, d_affine) = self.gradients(x, affine, y, dy)?;
        let d_residual = match (residual.track_op(), self.relu) {
            (false, _) => None,
            (true, false) => Some(dy.clone()),
            (true, true) => {
                let masked = storage::with(y, |y| storage::with(dy, |dy| Ok(activation::mask(y, dy))))?;
                Some(Tensor::from_vec(masked, y.shape(), y.device())?)
            }
        };
        Ok((dx, d_affine, d_residual))
    }
}
