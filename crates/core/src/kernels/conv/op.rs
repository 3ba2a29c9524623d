//! The CPU operation behind [`super::conv2d`].

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::engine;
use super::shape::ConvShape;
use crate::Result;
use crate::kernels::gemm;
use crate::kernels::map::{Kept, Native, Slot, token_gradient, token_storage};
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::precision::{Precision, precision};
use crate::kernels::simd::vectorized;
use crate::kernels::sink::param_gradient;
use crate::kernels::storage;

pub(super) fn conv(x: &Native, w: &Tensor, bias: Option<&Tensor>, shape: ConvShape) -> Result<Native> {
    let (w, precision) = (w.contiguous()?, precision());
    let mut y = Buffer::new(shape.outputs());
    storage::with(&w, |w| {
        engine::forward(precision, &shape, &x.values, w, &mut y);
        Ok(())
    })?;
    if let Some(bias) = bias {
        storage::with(bias, |bias| {
            add_bias(bias, &mut y);
            Ok(())
        })?;
    }
    let dims = vec![shape.n, shape.oh, shape.ow, shape.o];
    Native::make(dims, y, |to| {
        // The input is kept only for the weight gradient.
        let kept = w.track_op().then(|| Kept::of(x));
        let op = ConvOp { shape, precision, x: kept, from: x.slot.clone(), to };
        match bias {
            None => x.token.apply_op2(&w, op),
            Some(bias) => x.token.apply_op3(&w, bias, op),
        }
    })
}

#[derive(Debug)]
struct ConvOp {
    shape: ConvShape,
    precision: Precision,
    x: Option<Kept>,
    from: Arc<Slot>,
    to: Arc<Slot>,
}

impl ConvOp {
    /// Hands the input gradient on and returns the gradients of weight and bias.
    fn backward(
        &self,
        token: &Tensor,
        w: &Tensor,
        bias: Option<&Tensor>,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let (shape, precision) = (&self.shape, self.precision);
        let dy = self.to.take(shape.outputs());
        let dw = match &self.x {
            Some(x) if w.track_op() => {
                let mut dw = vec![0f32; shape.weights()];
                engine::backward_weight(precision, shape, &x.take()?, &dy, &mut dw);
                param_gradient(w, dw)?
            }
            _ => None,
        };
        let d_bias = match bias {
            Some(bias) if bias.track_op() => {
                let mut sums = vec![0f32; shape.o];
                gemm::column_sums(dy.len() / shape.o, shape.o, &dy, &mut sums);
                param_gradient(bias, sums)?
            }
            _ => None,
        };
        if token.track_op() {
            storage::with(w, |w| {
                self.from.update(|gathered| {
                    let add = gathered.is_some();
                    let mut dx = gathered.unwrap_or_else(|| Buffer::new(shape.inputs()));
                    engine::backward_data(precision, shape, &dy, w, &mut dx, add);
                    dx
                });
                Ok(())
            })?;
        }
        Ok((dw, d_bias))
    }
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        _token: &CpuStorage,
        _: &Layout,
        _w: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        token: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let (dw, _) = self.backward(token, w, None)?;
        Ok((token_gradient(token)?, dw))
    }
}

impl CustomOp3 for ConvOp {
    fn name(&self) -> &'static str {
        "conv2d_bias"
    }

    fn cpu_fwd(
        &self,
        _token: &CpuStorage,
        _: &Layout,
        _w: &CpuStorage,
        _: &Layout,
        _bias: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok(token_storage())
    }

    fn bwd(
        &self,
        token: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        _dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dw, d_bias) = self.backward(token, w, Some(bias))?;
        Ok((token_gradient(token)?, dw, d_bias))
    }
}

/// Elements of one unit of work.
const CHUNK: usize = 1 << 14;

fn add_bias(bias: &[f32], y: &mut [f32]) {
    let chunk = CHUNK.next_multiple_of(bias.len().max(1));
    let len = y.len();
    let out = Disjoint::new(y);
    parallel::for_each(len.div_ceil(chunk), |i| {
        let start = i * chunk;
        // SAFETY: chunks do not overlap.
        add_rows(bias, unsafe { out.slice(start, chunk.min(len - start)) });
    });
}

vectorized! {
    fn add_rows(bias: &[f32], y: &mut [f32]) {
        for row in y.chunks_exact_mut(bias.len()) {
            for (y, b) in row.iter_mut().zip(bias) {
                *y += b;
            }
        }
    }
}
