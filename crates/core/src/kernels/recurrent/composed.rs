//! The twins: one step at a time by Candle's operations.

use candle_core::Tensor;
use candle_nn::ops::sigmoid;

use super::op::Operands;
use crate::Result;

/// See [`super::gru`].
pub(super) fn gru(gates: &Tensor, operands: &Operands) -> Result<(Tensor, Tensor)> {
    let h = operands.weight.dim(1)?;
    let mut hidden = operands.state.clone();
    let mut all = Vec::new();
    for step in 0..gates.dim(1)? {
        hidden = reset(&hidden, operands.resets, gates, step)?;
        let (a, q) = parts(gates, &hidden, operands, step)?;
        let part = |x: &Tensor, i: usize| x.narrow(1, i * h, h);
        let r = sigmoid(&(part(&a, 0)? + part(&q, 0)?)?)?;
        let z = sigmoid(&(part(&a, 1)? + part(&q, 1)?)?)?;
        let new = (part(&a, 2)? + (r * part(&q, 2)?)?)?.tanh()?;
        hidden = (&new + (z * (&hidden - &new)?)?)?;
        all.push(hidden.clone());
    }
    Ok((Tensor::stack(&all, 1)?, hidden.detach()))
}

/// See [`super::lstm`].
pub(super) fn lstm(gates: &Tensor, operands: &Operands) -> Result<(Tensor, Tensor)> {
    let h = operands.weight.dim(1)?;
    let mut state = operands.state.clone();
    let mut all = Vec::new();
    for step in 0..gates.dim(1)? {
        state = reset(&state, operands.resets, gates, step)?;
        let (hidden, cell) = (state.narrow(1, 0, h)?, state.narrow(1, h, h)?);
        let (a, q) = parts(gates, &hidden, operands, step)?;
        let sum = (a + q)?;
        let part = |i: usize| sum.narrow(1, i * h, h);
        let (i, f) = (sigmoid(&part(0)?)?, sigmoid(&part(1)?)?);
        let (g, o) = (part(2)?.tanh()?, sigmoid(&part(3)?)?);
        let cell = ((f * cell)? + (i * g)?)?;
        let hidden = (o * cell.tanh()?)?;
        state = Tensor::cat(&[&hidden, &cell], 1)?;
        all.push(hidden);
    }
    Ok((Tensor::stack(&all, 1)?, state.detach()))
}

/// The input's and the hidden state's part of the gates of a step.
fn parts(gates: &Tensor, hidden: &Tensor, operands: &Operands, step: usize) -> Result<(Tensor, Tensor)> {
    let a = gates.narrow(1, step, 1)?.squeeze(1)?;
    let q = hidden.contiguous()?.matmul(&operands.weight.t()?)?.broadcast_add(operands.bias)?;
    Ok((a, q))
}

/// The states with those rows zero that begin anew at this step.
fn reset(state: &Tensor, resets: Option<&[bool]>, gates: &Tensor, step: usize) -> Result<Tensor> {
    let Some(resets) = resets else { return Ok(state.clone()) };
    let (n, t, _) = gates.dims3()?;
    let keep: Vec<f32> = (0..n).map(|row| f32::from(u8::from(!resets[row * t + step]))).collect();
    let keep = Tensor::from_vec(keep, (n, 1), state.device())?.to_dtype(state.dtype())?;
    Ok(state.broadcast_mul(&keep)?)
}
