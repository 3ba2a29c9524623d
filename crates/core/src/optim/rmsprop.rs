//! RMSProp in its two published forms.

use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::fused::{CHUNK, InPlace, PARALLEL};
use super::plain::store;
use crate::Result;

/// Which published RMSProp. With gradient g (weight decay added to it), decay α, momentum m and rate lr:
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RmsPropVariant {
    /// `torch.optim.RMSprop`: `v = α v + (1 − α) g²` from 0, `b = m b + g / (sqrt(v) + eps)`, `p = p − lr b`.
    #[default]
    Torch,
    /// `tf.train.RMSPropOptimizer`, which IMPALA uses: `v = α v + (1 − α) g²` from **1**, eps **inside** the root and
    /// the rate inside the momentum: `b = m b + lr g / sqrt(v + eps)`, `p = p − b`.
    TensorFlow,
}

/// Settings of RMSProp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RmsPropConfig {
    /// Whose: `"torch"` or `"tensorflow"`. Default `"torch"`.
    pub variant: RmsPropVariant,
    /// α, in `[0, 1)`. Default 0.99.
    pub decay: f64,
    /// m, in `[0, 1)`; 0 keeps no buffer. Default 0.
    pub momentum: f64,
    /// Above 0; [`RmsPropVariant`] says where it stands. Default 1e-8.
    pub eps: f64,
    /// λ, at least 0, as an l2 penalty. Default 0.
    pub weight_decay: f64,
}

impl Default for RmsPropConfig {
    fn default() -> Self {
        Self { variant: RmsPropVariant::default(), decay: 0.99, momentum: 0.0, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// One step of one parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct RmsPropUpdate {
    pub(super) lr: f64,
    pub(super) decay: f64,
    pub(super) alpha: f64,
    pub(super) momentum: f64,
    pub(super) eps: f64,
    pub(super) variant: RmsPropVariant,
}

impl RmsPropUpdate {
    /// What is added under the root and to it, and the rate inside the momentum and outside of it.
    fn places(self) -> [f64; 4] {
        match self.variant {
            RmsPropVariant::Torch => [0.0, self.eps, 1.0, self.lr],
            RmsPropVariant::TensorFlow => [self.eps, 0.0, self.lr, 1.0],
        }
    }
}

/// A step of a contiguous f32 parameter by a contiguous f32 gradient of the same shape.
pub(super) fn fused(
    parameter: &Tensor,
    gradient: &Tensor,
    square: &mut [f32],
    buffer: Option<&mut [f32]>,
    update: RmsPropUpdate,
) -> Result<()> {
    let run = |p: &mut [f32], g: &[f32], (v, b): &mut (&mut [f32], Option<&mut [f32]>)| {
        slices(p, g, v, b.as_deref_mut(), update);
    };
    Ok(parameter.inplace_op2(gradient, &InPlace::new((square, buffer), run))?)
}

fn slices(p: &mut [f32], g: &[f32], v: &mut [f32], b: Option<&mut [f32]>, update: RmsPropUpdate) {
    let [under, beside, inside, outside] = update.places().map(|x| x as f32);
    let (decay, alpha, fresh) = (update.decay as f32, update.alpha as f32, (1.0 - update.alpha) as f32);
    let momentum = update.momentum as f32;
    let direction = move |p: f32, g: f32, v: &mut f32| {
        let d = g + decay * p;
        *v = alpha * *v + fresh * (d * d);
        inside * d / ((*v + under).sqrt() + beside)
    };
    let chunk = if p.len() < PARALLEL { p.len().max(1) } else { CHUNK };
    let parts = p.par_chunks_mut(chunk).zip(g.par_chunks(chunk)).zip(v.par_chunks_mut(chunk));
    match b {
        None => parts.for_each(|((p, g), v)| {
            for ((p, &g), v) in p.iter_mut().zip(g).zip(v) {
                *p -= outside * direction(*p, g, v);
            }
        }),
        Some(b) => parts.zip(b.par_chunks_mut(chunk)).for_each(|(((p, g), v), b)| {
            for (((p, &g), v), b) in p.iter_mut().zip(g).zip(v).zip(b) {
                *b = momentum * *b + direction(*p, g, v);
                *p -= outside * *b;
            }
        }),
    }
}

/// See [`fused`]; `g` is f32.
pub(super) fn plain(
    parameter: &Var,
    g: &Tensor,
    square: &mut Tensor,
    buffer: Option<&mut Tensor>,
    update: RmsPropUpdate,
) -> Result<()> {
    let [under, beside, inside, outside] = update.places();
    let p = parameter.as_detached_tensor().to_dtype(DType::F32)?;
    let d = if update.decay == 0.0 { g.clone() } else { (g + (&p * update.decay)?)? };
    *square = ((&*square * update.alpha)? + (d.sqr()? * (1.0 - update.alpha))?)?.detach();
    let mut direction = ((d * inside)? / ((&*square + under)?.sqrt()? + beside)?)?;
    if let Some(buffer) = buffer {
        *buffer = ((&*buffer * update.momentum)? + direction)?.detach();
        direction = buffer.clone();
    }
    store(parameter, &(p - (direction * outside)?)?)
}
