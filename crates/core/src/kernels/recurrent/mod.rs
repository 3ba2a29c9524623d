//! Recurrent cells over whole sequences, in PyTorch's equations.
//!
//! The input's part of the gates is one [linear](super::linear) layer over all steps; what is here is the part that must
//! go step by step. On the CPU forward and backward through time are one operation each; elsewhere they are compositions
//! of Candle's, one step at a time.

mod cells;
mod composed;
mod op;
mod sweep;
#[cfg(test)]
mod tests;

use candle_core::{Device, Tensor};

use self::cells::{Cell, Gru, Lstm};
use self::op::Operands;
use self::sweep::Extents;
use super::map::{FeatureMap, Form};
use crate::{Error, Result};

/// A gated recurrent unit over `gates` `[N, T, 3H]`, a map made by [`FeatureMap::from_rows`] that holds
/// `W_i x_t + b_i` for the gates r, z, n of every step; `weight` `[3H, H]` and `bias` `[3H]` are the hidden state's:
///
/// ```text
/// r, z = σ(gates + weight h + bias),  n = tanh(gates + r (weight h + bias)),  h' = (1 − z) n + z h
/// ```
///
/// `state` `[N, H]` is the hidden state before the first step (zeros where absent). Before step `t` of sequence `i` it
/// becomes zero where `resets[i T + t]`. Gives the hidden states behind every step `[N, T, H]` and, cut from the graph,
/// the last one `[N, H]`.
///
/// # Errors
/// [`Error::Shape`] where the operands do not fit each other.
pub fn gru(
    gates: &FeatureMap,
    weight: &Tensor,
    bias: &Tensor,
    state: Option<&Tensor>,
    resets: Option<&[bool]>,
) -> Result<(FeatureMap, Tensor)> {
    cell::<Gru>(gates, weight, bias, state, resets, composed::gru)
}

/// Long short-term memory over `gates` `[N, T, 4H]`, as [`gru`]; gates i, f, g, o, the two states side by side in `state`
/// `[N, 2H]`, hidden one first:
///
/// ```text
/// i, f, o = σ(gates + weight h + bias),  g = tanh(gates + weight h + bias),  c' = f c + i g,  h' = o tanh c'
/// ```
///
/// Gives the hidden states `[N, T, H]` and, cut from the graph, the last two states `[N, 2H]`.
///
/// # Errors
/// As [`gru`].
pub fn lstm(
    gates: &FeatureMap,
    weight: &Tensor,
    bias: &Tensor,
    state: Option<&Tensor>,
    resets: Option<&[bool]>,
) -> Result<(FeatureMap, Tensor)> {
    cell::<Lstm>(gates, weight, bias, state, resets, composed::lstm)
}

type Twin = fn(&Tensor, &Operands) -> Result<(Tensor, Tensor)>;

fn cell<C: Cell>(
    gates: &FeatureMap,
    weight: &Tensor,
    bias: &Tensor,
    state: Option<&Tensor>,
    resets: Option<&[bool]>,
    twin: Twin,
) -> Result<(FeatureMap, Tensor)> {
    let dims = match &gates.0 {
        Form::Plain(x) => x.dims(),
        Form::Native(x) => x.dims.as_slice(),
    };
    let &[n, t, width] = dims else {
        return Err(Error::shape(C::NAME, format!("[N, T, {} H]", C::GATES), dims));
    };
    let h = width / C::GATES;
    if n * t * h == 0 || width != C::GATES * h {
        return Err(Error::shape(C::NAME, format!("[N, T, {} H], nothing empty", C::GATES), dims));
    }
    if weight.dims() != [width, h] || bias.dims() != [width] {
        return Err(Error::shape(C::NAME, format!("[{width}, {h}] for the hidden state"), weight.dims()));
    }
    let states = (1 + C::EXTRA) * h;
    let device = match &gates.0 {
        Form::Plain(x) => x.device().clone(),
        Form::Native(_) => Device::Cpu,
    };
    let zeros;
    let state = match state {
        Some(state) if state.dims() == [n, states] => state,
        Some(state) => return Err(Error::shape(C::NAME, format!("[{n}, {states}] states"), state.dims())),
        None => {
            zeros = Tensor::zeros((n, states), weight.dtype(), &device)?;
            &zeros
        }
    };
    if let Some(resets) = resets
        && resets.len() != n * t
    {
        return Err(Error::shape(C::NAME, format!("{n} x {t} resets"), &[resets.len()]));
    }
    let operands = Operands { weight, bias, state, resets };
    Ok(match &gates.0 {
        Form::Plain(x) => {
            let (y, last) = twin(x, &operands)?;
            (FeatureMap(Form::Plain(y)), last)
        }
        Form::Native(x) => {
            let (y, last) = op::run::<C>(x, operands, Extents { n, t, h })?;
            (FeatureMap(Form::Native(y)), last)
        }
    })
}
