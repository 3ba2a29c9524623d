//! The CPU operation behind [`super::gru`] and [`super::lstm`].

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor};

use super::cells::Cell;
use super::sweep::{self, Extents};
use crate::kernels::map::{Native, Slot, token_gradient, token_storage};
use crate::kernels::memory::Buffer;
use crate::kernels::sink::param_gradient;
use crate::kernels::storage;

/// What all kinds of cells take; see [`super::gru`].
pub(super) struct Operands<'a> {
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub state: &'a Tensor,
    pub resets: Option<&'a [bool]>,
}

/// The map of the hidden states and, outside the graph, the last states `[N, S H]`.
pub(super) fn run<C: Cell>(
    gates: &Native,
    operands: Operands,
    extents: Extents,
) -> crate::Result<(Native, Tensor)> {
    let Operands { weight, bias, state, resets } = operands;
    let weight = weight.contiguous()?;
    let out = storage::with(&weight, |w| {
        storage::with(bias, |b| {
            storage::with(state, |s| Ok(sweep::forward::<C>(extents, &gates.values, (w, b), s, resets)))
        })
    })?;
    let Extents { n, t, h } = extents;
    let last = Tensor::from_vec(out.last, (n, (1 + C::EXTRA) * h), &Device::Cpu)?;
    let start = state.track_op().then(|| Arc::new(Slot::default()));
    let token = match &start {
        Some(slot) => gates.token.apply_op2(state, StateOp { slot: slot.clone() })?,
        None => gates.token.clone(),
    };
    let y = Native::make(vec![n, t, h], out.y, |to| {
        let kept = Mutex::new(Some((out.kept, out.before)));
        let resets = resets.map(Vec::from);
        let from = gates.slot.clone();
        let op = RecurrentOp::<C> { extents, kept, resets, from, start, to, cell: PhantomData };
        token.apply_op3(&weight, bias, op)
    })?;
    Ok((y, last))
}

/// Ties the first states to the token of the gates: an operation has three operands at most.
struct StateOp {
    slot: Arc<Slot>,
}

impl CustomOp2 for StateOp {
    fn name(&self) -> &'static str {
        "recurrent_state"
    }

    fn cpu_fwd(
        &self,
        _gates: &CpuStorage,
        _: &Layout,
        _state: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        gates: &Tensor,
        state: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = self.slot.take(state.elem_count());
        let gradient = Tensor::from_slice(&gradient, state.shape(), state.device())?;
        Ok((token_gradient(gates)?, Some(gradient)))
    }
}

struct RecurrentOp<C> {
    extents: Extents,
    /// What the cell keeps and the hidden states before every step, until the backward pass takes them.
    kept: Mutex<Option<(Buffer, Buffer)>>,
    resets: Option<Vec<bool>>,
    from: Arc<Slot>,
    start: Option<Arc<Slot>>,
    to: Arc<Slot>,
    cell: PhantomData<C>,
}

impl<C: Cell> CustomOp3 for RecurrentOp<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn cpu_fwd(
        &self,
        _gates: &CpuStorage,
        _: &Layout,
        _weight: &CpuStorage,
        _: &Layout,
        _bias: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        gates: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Extents { n, t, h } = self.extents;
        let taken = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((kept, before)) = taken else {
            candle_core::bail!("backward was called twice on one graph");
        };
        let dy = self.to.take(n * t * h);
        let out = storage::with(weight, |w| {
            Ok(sweep::backward::<C>(self.extents, &dy, w, (&kept, &before), self.resets.as_deref()))
        })?;
        let (mut d_weight, mut d_bias) = (None, None);
        if weight.track_op() || bias.track_op() {
            let (dw, db) = sweep::weights(self.extents, C::GATES, &before, &out.hidden);
            d_weight = if weight.track_op() { param_gradient(weight, dw)? } else { None };
            d_bias = if bias.track_op() { param_gradient(bias, db)? } else { None };
        }
        if gates.track_op() {
            self.from.add(out.gates);
        }
        if let Some(start) = &self.start {
            start.add(Buffer::from_slice(&out.state));
        }
        Ok((token_gradient(gates)?, d_weight, d_bias))
    }
}
