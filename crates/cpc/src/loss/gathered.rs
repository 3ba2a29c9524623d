//! Inner products with a few chosen targets for each prediction.

use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Shape, Tensor};
use contrastive_core::{Error, Result};
use rayon::prelude::*;

use super::with_slice;

/// Inner products `[M, n]` of predictions `[M, D]` with the rows `index[m n + j]` of targets `[F, D]`: for a few negatives
/// each, without a copy of them.
///
/// # Errors
/// Sizes that do not fit, a row out of range.
pub fn gathered(predictions: &Tensor, targets: &Tensor, index: &[u32]) -> Result<Tensor> {
    let (&[m, d], &[f, width]) = (predictions.dims(), targets.dims()) else {
        return Err(Error::shape("CPC logits", "[M, D] and [F, D]", predictions.dims()));
    };
    if d != width || d == 0 {
        return Err(Error::shape("CPC logits", format!("[F, {d}] for the targets"), targets.dims()));
    }
    if m == 0 || index.is_empty() || !index.len().is_multiple_of(m) {
        return Err(Error::shape("CPC logits", format!("{m} x n chosen targets"), &[index.len()]));
    }
    if let Some(row) = index.iter().find(|&&row| row as usize >= f) {
        return Err(Error::data("CPC logits", format!("target {row} is out of range for {f}")));
    }
    let n = index.len() / m;
    if !predictions.device().is_cpu() || predictions.dtype() != DType::F32 {
        let index = Tensor::from_slice(index, index.len(), targets.device())?;
        let chosen = targets.index_select(&index, 0)?.reshape((m, n, d))?;
        return Ok(chosen.broadcast_mul(&predictions.unsqueeze(1)?)?.sum(D::Minus1)?);
    }
    let (predictions, targets) = (predictions.contiguous()?, targets.contiguous()?);
    Ok(predictions.apply_op2(&targets, Gathered { index: index.to_vec(), m, n, f, d })?)
}

struct Gathered {
    index: Vec<u32>,
    m: usize,
    n: usize,
    f: usize,
    d: usize,
}

impl Gathered {
    fn forward(&self, p: &[f32], z: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; self.m * self.n];
        out.par_chunks_mut(self.n).enumerate().for_each(|(m, out)| {
            let p = &p[m * self.d..(m + 1) * self.d];
            for (out, &row) in out.iter_mut().zip(&self.index[m * self.n..]) {
                *out = dot(p, &z[row as usize * self.d..][..self.d]);
            }
        });
        out
    }

    fn predictions(&self, dy: &[f32], z: &[f32]) -> Vec<f32> {
        let mut dp = vec![0f32; self.m * self.d];
        dp.par_chunks_mut(self.d).enumerate().for_each(|(m, dp)| {
            let places = m * self.n..(m + 1) * self.n;
            for (&row, &dy) in self.index[places.clone()].iter().zip(&dy[places]) {
                add_scaled(dp, dy, &z[row as usize * self.d..][..self.d]);
            }
        });
        dp
    }

    /// The users of every target in order, so that sums do not depend on threads.
    fn targets(&self, dy: &[f32], p: &[f32]) -> Vec<f32> {
        let mut users: Vec<Vec<u32>> = vec![Vec::new(); self.f];
        for (place, &row) in self.index.iter().enumerate() {
            users[row as usize].push(place as u32);
        }
        let mut dz = vec![0f32; self.f * self.d];
        dz.par_chunks_mut(self.d).zip(&users).for_each(|(dz, users)| {
            for &place in users {
                let m = place as usize / self.n;
                add_scaled(dz, dy[place as usize], &p[m * self.d..(m + 1) * self.d]);
            }
        });
        dz
    }
}

impl CustomOp2 for Gathered {
    fn name(&self) -> &'static str {
        "gathered_products"
    }

    fn cpu_fwd(
        &self,
        p: &CpuStorage,
        p_layout: &Layout,
        z: &CpuStorage,
        z_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (p, z) = (&p.as_slice::<f32>()?[p_layout.start_offset()..], z.as_slice::<f32>()?);
        let out = self.forward(p, &z[z_layout.start_offset()..]);
        Ok((CpuStorage::F32(out), (self.m, self.n).into()))
    }

    fn bwd(
        &self,
        p: &Tensor,
        z: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = |to: &Tensor, values: Vec<f32>| Tensor::from_vec(values, to.shape(), to.device());
        with_slice(dy, |dy| {
            let dp = if p.track_op() { Some(with_slice(z, |z| self.predictions(dy, z))?) } else { None };
            let dz = if z.track_op() { Some(with_slice(p, |p| self.targets(dy, p))?) } else { None };
            let dp = dp.map(|values| gradient(p, values)).transpose()?;
            Ok((dp, dz.map(|values| gradient(z, values)).transpose()?))
        })?
    }
}

/// The inner product in lanes, so that it becomes vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

fn add_scaled(sum: &mut [f32], scale: f32, x: &[f32]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += scale * x);
}
