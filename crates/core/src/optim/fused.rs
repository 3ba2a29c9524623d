//! The CPU form of the updates: one pass over parameter, gradient and moments, in place.
//!
//! Work is cut into chunks of a fixed size. Elements are independent, and sums are added chunk by chunk in order, so
//! the result has the same bits for any number of threads.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};
use rayon::prelude::*;

use super::engine::{AdamUpdate, MomentumUpdate};
use crate::Result;

pub(super) const CHUNK: usize = 1 << 14;
/// Below this many elements the threads cost more than they save.
pub(super) const PARALLEL: usize = 1 << 16;

/// The sum of squares in f64.
pub(super) fn sum_squares(x: &[f32]) -> f64 {
    sum_chunks(x, x, |x, _| x)
}

/// The norms of `p` and of `g + decay * p`, in f64.
fn norms(p: &[f32], g: &[f32], decay: f32) -> (f64, f64) {
    (sum_squares(p).sqrt(), sum_chunks(p, g, |p, g| g + decay * p).sqrt())
}

/// Sum of `f(a, b)^2`.
fn sum_chunks(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync) -> f64 {
    if a.len() < PARALLEL {
        a.chunks(CHUNK).zip(b.chunks(CHUNK)).map(|(a, b)| lanes(a, b, f)).sum()
    } else {
        let chunks = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
        chunks.map(|(a, b)| lanes(a, b, f)).collect::<Vec<f64>>().iter().sum()
    }
}

/// Sum of `f(a, b)^2` over a chunk, in eight lanes, which the compiler can keep in vector registers.
fn lanes(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    let square = |a, b| {
        let value = f64::from(f(a, b));
        value * value
    };
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0f64; 8];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += square(a[lane], b[lane]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| square(a, b)).sum();
    sums.iter().sum::<f64>() + rest
}

/// Momentum step of a contiguous f32 parameter by a contiguous f32 gradient of the same shape.
pub(super) fn momentum(
    parameter: &Tensor,
    gradient: &Tensor,
    velocity: Option<&mut [f32]>,
    update: MomentumUpdate,
) -> Result<()> {
    let run = |p: &mut [f32], g: &[f32], velocity: &mut Option<&mut [f32]>| {
        momentum_slices(p, g, velocity.as_deref_mut(), update);
    };
    Ok(parameter.inplace_op2(gradient, &InPlace::new(velocity, run))?)
}

/// Adam step of a contiguous f32 parameter by a contiguous f32 gradient of the same shape.
pub(super) fn adam(
    parameter: &Tensor,
    gradient: &Tensor,
    moments: (&mut [f32], &mut [f32]),
    update: AdamUpdate,
) -> Result<()> {
    let run = |p: &mut [f32], g: &[f32], (m, v): &mut (&mut [f32], &mut [f32])| {
        adam_slices(p, g, m, v, update);
    };
    Ok(parameter.inplace_op2(gradient, &InPlace::new(moments, run))?)
}

/// Candle hands out a mutable slice of a parameter only inside such an operation.
pub(super) struct InPlace<S, F> {
    state: RefCell<S>,
    run: F,
}

impl<S, F> InPlace<S, F> {
    pub(super) fn new(state: S, run: F) -> Self {
        Self { state: RefCell::new(state), run }
    }
}

impl<S, F: Fn(&mut [f32], &[f32], &mut S)> InplaceOp2 for InPlace<S, F> {
    fn name(&self) -> &'static str {
        "optimiser step"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        parameter_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = parameter else {
            candle_core::bail!("optimiser step: the parameter is not f32")
        };
        let gradient = gradient.as_slice::<f32>()?;
        match (parameter_layout.contiguous_offsets(), gradient_layout.contiguous_offsets()) {
            (Some((start, end)), Some((from, to))) if end - start == to - from => {
                (self.run)(&mut values[start..end], &gradient[from..to], &mut self.state.borrow_mut());
                Ok(())
            }
            _ => candle_core::bail!("optimiser step: parameter and gradient must be contiguous and alike"),
        }
    }
}

fn momentum_slices(p: &mut [f32], g: &[f32], velocity: Option<&mut [f32]>, update: MomentumUpdate) {
    let mut decay = update.decay as f32;
    let (mut scale, mut lr) = (1f64, update.lr);
    if let Some(trust) = update.trust {
        if trust.apex {
            let (p_norm, g_norm) = norms(p, g, 0.0);
            if p_norm > 0.0 && g_norm > 0.0 {
                scale = trust.coefficient * p_norm / (g_norm + p_norm * update.decay + trust.eps);
                if trust.clip {
                    scale = (scale / lr).min(1.0);
                }
            } else {
                decay = 0.0;
            }
        } else {
            let (p_norm, d_norm) = norms(p, g, decay);
            if p_norm > 0.0 && d_norm > 0.0 {
                scale = trust.coefficient * p_norm / d_norm;
            }
        }
    }
    if update.rate_inside {
        scale *= lr;
        lr = 1.0;
    }
    let (scale, lr, momentum) = (scale as f32, lr as f32, update.momentum as f32);
    let Some(velocity) = velocity else {
        return for_chunks(p, g, |p, g| {
            for (p, &g) in p.iter_mut().zip(g) {
                *p -= lr * ((g + decay * *p) * scale);
            }
        });
    };
    let nesterov = update.nesterov;
    let pass = |p: &mut [f32], g: &[f32], v: &mut [f32]| {
        for ((p, &g), v) in p.iter_mut().zip(g).zip(v) {
            let d = (g + decay * *p) * scale;
            *v = momentum * *v + d;
            *p -= lr * if nesterov { d + momentum * *v } else { *v };
        }
    };
    if p.len() < PARALLEL {
        pass(p, g, velocity);
    } else {
        let chunks = p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(velocity.par_chunks_mut(CHUNK));
        chunks.for_each(|((p, g), v)| pass(p, g, v));
    }
}

fn for_chunks(p: &mut [f32], g: &[f32], f: impl Fn(&mut [f32], &[f32]) + Sync) {
    if p.len() < PARALLEL {
        f(p, g);
    } else {
        p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(p, g)| f(p, g));
    }
}

fn adam_slices(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], update: AdamUpdate) {
    let (keep, penalty) = update.decays();
    let (step_size, root) = update.corrections();
    let [beta1, beta2] = update.betas;
    let (fresh1, beta2, fresh2) = ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
    let (keep, penalty, step_size, root) = (keep as f32, penalty as f32, step_size as f32, root as f32);
    let eps = update.eps as f32;
    let pass = |p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]| {
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let kept = *p * keep;
            let d = g + penalty * *p;
            *m += fresh1 * (d - *m);
            *v = beta2 * *v + fresh2 * (d * d);
            *p = kept - step_size * (*m / (v.sqrt() / root + eps));
        }
    };
    if p.len() < PARALLEL {
        pass(p, g, m, v);
    } else {
        let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
        let chunks = p.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(moments);
        chunks.for_each(|((p, g), (m, v))| pass(p, g, m, v));
    }
}
