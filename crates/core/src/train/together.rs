//! What the loop asks of all ranks together.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::dist::{Comm, Timed, straggler};
use crate::{Error, Result};

/// A rank that computes so many times as long as the middle one is told of.
const SLOW: f64 = 1.5;

/// The ranks of a run.
pub(super) struct Together {
    comm: Comm,
    timed: Option<Arc<Timed>>,
}

impl Together {
    pub(super) fn new(comm: Comm) -> Self {
        if comm.size() == 1 {
            return Self { comm, timed: None };
        }
        let timed = Arc::new(Timed::new(comm));
        Self { comm: timed.clone(), timed: Some(timed) }
    }

    pub(super) fn comm(&self) -> &Comm {
        &self.comm
    }

    /// The mean of the ranks' losses: not finite as soon as one is not, so that all ranks stop together.
    pub(super) fn mean(&self, loss: &Tensor) -> Result<f64> {
        if loss.elem_count() != 1 {
            return Err(Error::shape("training step", "a scalar loss", loss.dims()));
        }
        let own = loss.detach().flatten_all()?.to_dtype(DType::F32)?;
        let sum = self.comm.all_reduce_sum(&own)?.to_vec1::<f32>()?;
        Ok(sum.iter().map(|x| f64::from(*x)).sum::<f64>() / self.comm.size() as f64)
    }

    /// Whether any rank was told to stop: all must leave after the same step.
    pub(super) fn any(&self, own: bool) -> Result<bool> {
        if self.comm.size() == 1 {
            return Ok(own);
        }
        let flag = Tensor::new(&[f32::from(u8::from(own))], &Device::Cpu)?;
        Ok(self.comm.all_reduce_sum(&flag)?.to_vec1::<f32>()?.iter().any(|x| *x > 0.0))
    }

    /// Seconds that this rank waited for others since the last call, and a word about a rank that keeps all others
    /// waiting. `seconds` is how long the time was.
    pub(super) fn waited(&self, seconds: f64) -> Result<(f64, Option<String>)> {
        let Some(timed) = &self.timed else { return Ok((0.0, None)) };
        let waited = timed.take().as_secs_f64();
        let busy = Tensor::new(&[(seconds - waited).max(0.0)], &Device::Cpu)?;
        let busy = self.comm.all_gather(&busy)?.to_vec1::<f64>()?;
        let slow = straggler(&busy, SLOW).map(|(rank, times)| {
            let own = busy.get(rank).copied().unwrap_or_default();
            format!("rank {rank} keeps the others waiting: it computed {own:.1} s, {times:.1} times as long as most")
        });
        Ok((waited, slow))
    }
}
