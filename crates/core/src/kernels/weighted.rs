//! What convolutions and linear layers share: an operation on a map with a weight and an optional bias, linear in each.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::map::{Kept, Native, Slot, token_gradient, token_storage};
use super::memory::Buffer;
use super::sink::param_gradient;
use super::{gemm, storage};

/// The gradients of `y = f(x, w)`, over elements in memory order.
pub(super) trait Weighted: Send + Sync + 'static {
    /// For error messages.
    const NAME: &'static str;

    /// Elements of the input.
    fn inputs(&self) -> usize;

    /// Rows and channels of the output.
    fn outputs(&self) -> (usize, usize);

    /// Fills `dw`.
    fn backward_weight(&self, x: &[f32], dy: &[f32], dw: &mut [f32]);

    /// Fills `dx`, or adds to it.
    fn backward_data(&self, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool);
}

/// Puts the output `y` of `op` into the graph, as a map of these extents.
pub(super) fn attach<W: Weighted>(
    op: W,
    x: &Native,
    w: &Tensor,
    bias: Option<&Tensor>,
    dims: Vec<usize>,
    y: Buffer,
) -> crate::Result<Native> {
    Native::make(dims, y, |to| {
        // The input is kept only for the weight gradient.
        let kept = w.track_op().then(|| Kept::of(x));
        let op = WeightedOp { op, x: kept, from: x.slot.clone(), to };
        match bias {
            None => x.token.apply_op2(w, op),
            Some(bias) => x.token.apply_op3(w, bias, op),
        }
    })
}

struct WeightedOp<W> {
    op: W,
    x: Option<Kept>,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl<W: Weighted> WeightedOp<W> {
    /// Hands the input gradient on and returns the gradients of weight and bias.
    fn backward(
        &self,
        token: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, channels) = self.op.outputs();
        let dy = self.to.take(rows * channels);
        let dw = match &self.x {
            Some(x) if w.track_op() => {
                let mut dw = vec![0f32; w.elem_count()];
                self.op.backward_weight(&x.take()?, &dy, &mut dw);
                param_gradient(w, dw)?
            }
            _ => None,
        };
        let d_bias = match bias {
            Some(bias) if bias.track_op() => {
                let mut sums = vec![0f32; channels];
                gemm::column_sums(rows, channels, &dy, &mut sums);
                param_gradient(bias, sums)?
            }
            _ => None,
        };
        if token.track_op() {
            storage::with(w, |w| {
                self.from.update(|gathered| {
                    let add = gathered.is_some();
                    let mut dx = gathered.unwrap_or_else(|| Buffer::new(self.op.inputs()));
                    self.op.backward_data(&dy, w, &mut dx, add);
                    dx
                });
                Ok(())
            })?;
        }
        Ok((dw, d_bias))
    }
}

impl<W: Weighted> CustomOp2 for WeightedOp<W> {
    fn name(&self) -> &'static str {
        W::NAME
    }

    fn cpu_fwd(
        &self,
        _token: &CpuStorage,
        _: &Layout,
        _w: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        token: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dw, _) = self.backward(token, w, None)?;
        Ok((token_gradient(token)?, dw))
    }
}

impl<W: Weighted> CustomOp3 for WeightedOp<W> {
    fn name(&self) -> &'static str {
        W::NAME
    }

    fn cpu_fwd(
        &self,
        _token: &CpuStorage,
        _: &Layout,
        _w: &CpuStorage,
        _: &Layout,
        _bias: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        token: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dw, d_bias) = self.backward(token, w, Some(bias))?;
        Ok((token_gradient(token)?, dw, d_bias))
    }
}
