//! The CPU operation: two or three operands, statistics kept between the passes.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result as CandleResult, Shape, Tensor};

use super::cpu::{BlockMoments, Mask, Moments, Pass, Rows};
use super::{BatchStatistics, Settings, Statistics};
use crate::dist::Comm;
use crate::kernels::map::{Kept, Native, Recompute, Slot, token_gradient, token_storage};
use crate::kernels::memory::Buffer;
use crate::{Error, Result};

/// The operands of the CPU operation.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub x: &'a Native,
    pub affine: &'a Tensor,
    pub residual: Option<&'a Native>,
    pub settings: Settings,
}

/// Batch moments of a training pass. `var` is biased.
struct Batch {
    mean: Vec<f32>,
    var: Vec<f32>,
    count: usize,
}

pub(super) fn train(args: Operands, statistics: &Statistics) -> Result<(Native, BatchStatistics)> {
    let comm = match statistics {
        Statistics::Sync(comm) if comm.size() > 1 => Some(comm.clone()),
        _ => None,
    };
    let at = Rows { rows: args.x.rows(), c: args.x.channels(), groups: statistics.groups() };
    let batch = measure(at, &args.x.values, comm.as_ref())?;
    if batch.count < 2 {
        return Err(super::too_few(&args.x.dims));
    }
    let inv_std = inverse_std(&batch.var, args.settings.eps);
    let shape = (at.groups, at.c);
    let seen = BatchStatistics {
        mean: Tensor::from_slice(&batch.mean, shape, &Device::Cpu)?,
        var: Tensor::from_vec(batch.var, shape, &Device::Cpu)?,
        count: batch.count,
    };
    let moments = Moments { mean: batch.mean, inv_std };
    Ok((apply(args, at, moments, Some(batch.count), comm)?, seen))
}

fn inverse_std(var: &[f32], eps: f64) -> Vec<f32> {
    var.iter().map(|&v| (1.0 / (f64::from(v) + eps).sqrt()) as f32).collect()
}

fn measure(at: Rows, x: &[f32], comm: Option<&Comm>) -> Result<Batch> {
    let blocks = BlockMoments::new(at, x);
    let mut sums = blocks.sums();
    let mut count = at.rows / at.groups;
    if let Some(comm) = comm {
        sums.push(count as f64);
        sums = reduce(comm, &sums)?;
        count = sums.pop().unwrap_or_default().round() as usize;
    }
    let mean: Vec<f64> = sums.iter().map(|s| s / count as f64).collect();
    let mut squares = blocks.squares(&mean);
    if let Some(comm) = comm {
        squares = reduce(comm, &squares)?;
    }
    let var = squares.iter().map(|s| (s / count as f64) as f32).collect();
    Ok(Batch { mean: mean.iter().map(|&m| m as f32).collect(), var, count })
}

/// The sum over ranks, in f64: a rank count in f32 would be exact only up to 2^24.
fn reduce(comm: &Comm, values: &[f64]) -> Result<Vec<f64>> {
    let sum = comm.all_reduce_sum(&Tensor::from_slice(values, values.len(), &Device::Cpu)?)?;
    if sum.elem_count() != values.len() {
        return Err(Error::Rank { rank: comm.rank(), reason: "batch norm sums of another length".into() });
    }
    Ok(sum.to_vec1::<f64>()?)
}

pub(super) fn fixed(args: Operands, mean: &Tensor, var: &Tensor) -> Result<Native> {
    let inv_std = inverse_std(&var.to_vec1::<f32>()?, args.settings.eps);
    let moments = Moments { mean: mean.to_vec1()?, inv_std };
    let at = Rows { rows: args.x.rows(), c: args.x.channels(), groups: 1 };
    apply(args, at, moments, None, None)
}

fn apply(
    args: Operands,
    at: Rows,
    moments: Moments,
    count: Option<usize>,
    comm: Option<Comm>,
) -> Result<Native> {
    let Operands { x, residual, settings, .. } = args;
    let affine = args.affine.contiguous()?;
    let gamma_beta = affine.flatten_all()?.to_vec1::<f32>()?;
    let forward =
        Arc::new(Forward { at, moments, affine: gamma_beta, relu: settings.relu, x: x.values.clone() });
    let mut y = Buffer::new(x.values.len());
    forward.pass().forward(residual.map(|r| &r.values[..]), &mut y);
    let y = Arc::new(y);
    let slot = Arc::new(Slot::default());
    let op = BatchNormOp {
        at,
        len: y.len(),
        count,
        comm,
        forward: Mutex::new(Some(forward.clone())),
        // The mask of a ReLU after a residual cannot be made anew from x.
        y: (settings.relu && residual.is_some()).then(|| Kept::new(&y)),
        x_slot: x.slot.clone(),
        residual_slot: residual.map(|r| r.slot.clone()),
        y_slot: slot.clone(),
    };
    let token = match residual {
        None => x.token.apply_op2(&affine, op)?,
        Some(residual) => x.token.apply_op3(&affine, &residual.token, op)?,
    };
    // In a graph x is kept for the gradient; what follows need not keep y as well.
    let recipe = (token.track_op() && residual.is_none()).then_some(forward as Arc<dyn Recompute>);
    Ok(Native { token, dims: x.dims.clone(), values: y, slot, recipe })
}

/// What the output is made of.
#[derive(Debug)]
struct Forward {
    at: Rows,
    moments: Moments,
    affine: Vec<f32>,
    relu: bool,
    x: Arc<Buffer>,
}

impl Forward {
    fn pass(&self) -> Pass<'_> {
        Pass { at: self.at, x: &self.x, affine: &self.affine, moments: &self.moments, relu: self.relu }
    }
}

impl Recompute for Forward {
    fn values(&self) -> Buffer {
        let mut y = Buffer::new(self.x.len());
        self.pass().forward(None, &mut y);
        y
    }
}

struct BatchNormOp {
    at: Rows,
    len: usize,
    /// Values per channel behind the moments; none if they are fixed.
    count: Option<usize>,
    comm: Option<Comm>,
    /// Let go of by the backward pass.
    forward: Mutex<Option<Arc<Forward>>>,
    y: Option<Kept>,
    x_slot: Arc<Slot>,
    residual_slot: Option<Arc<Slot>>,
    y_slot: Arc<Slot>,
}

impl BatchNormOp {
    /// Hands the gradients of x and the residual on and returns that of gamma and beta.
    fn backward(
        &self,
        x: &Tensor,
        affine: &Tensor,
        residual: Option<&Tensor>,
    ) -> CandleResult<Option<Tensor>> {
        let Rows { c, groups, .. } = self.at;
        let mut dy = self.y_slot.take(self.len);
        let forward = self.forward.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(forward) = forward else { candle_core::bail!("backward was called twice on one graph") };
        let y_data = self.y.as_ref().map(Kept::take).transpose()?;
        let pass = forward.pass();
        let mask = y_data.as_ref().map_or(Mask::Recomputed, |y| Mask::Output(y));
        let sums = pass.gradient_sums(mask, &dy);
        let d_affine = affine.track_op().then(|| {
            // Rows of the sums: beta's gradient, then gamma's.
            let total =
                |row: usize, i: usize| (0..groups).map(|g| sums[(g * 2 + row) * c + i]).sum::<f64>() as f32;
            [1, 0]
                .into_iter()
                .flat_map(|row| (0..c).map(move |i| (row, i)))
                .map(|(row, i)| total(row, i))
                .collect()
        });
        let d_affine: Option<Vec<f32>> = d_affine;
        let means = self.means(sums)?;
        // Where nobody wants the residual's gradient, `dy` is free to become that of x.
        let residual = residual.filter(|r| r.track_op()).and(self.residual_slot.as_ref());
        match (residual, &y_data) {
            (_, Some(y)) => {
                let mut dx = Buffer::new(dy.len());
                pass.backward_residual(y, &mut dy, &means, &mut dx);
                if x.track_op() {
                    self.x_slot.add(dx);
                }
                if let Some(slot) = residual {
                    slot.add(dy);
                }
            }
            (residual, None) => {
                if let Some(slot) = residual {
                    slot.add(Buffer::from_slice(&dy));
                }
                if x.track_op() {
                    pass.backward(&mut dy, &means);
                    self.x_slot.add(dy);
                }
            }
        }
        d_affine.map(|d| Tensor::from_vec(d, (2, c), affine.device())).transpose()
    }

    /// From sums of this rank to means over the values behind the moments.
    fn means(&self, mut sums: Vec<f64>) -> CandleResult<Vec<f32>> {
        let Some(count) = self.count else { return Ok(vec![0.0; sums.len()]) };
        if let Some(comm) = &self.comm {
            sums = reduce(comm, &sums).map_err(candle_core::Error::wrap)?;
        }
        Ok(sums.iter().map(|s| (s / count as f64) as f32).collect())
    }
}

impl CustomOp2 for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _: &Layout,
        _affine: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        x: &Tensor,
        affine: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let d_affine = self.backward(x, affine, None)?;
        Ok((token_gradient(x)?, d_affine))
    }
}

impl CustomOp3 for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm_residual"
    }

    fn cpu_fwd(
        &self,
        _x: &CpuStorage,
        _: &Layout,
        _affine: &CpuStorage,
        _: &Layout,
        _residual: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        x: &Tensor,
        affine: &Tensor,
        residual: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d_affine = self.backward(x, affine, Some(residual))?;
        Ok((token_gradient(x)?, d_affine, token_gradient(residual)?))
    }
}
