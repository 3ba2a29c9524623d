//! The CPU operation behind [`super::conv2d`].

use candle_core::Tensor;

use super::engine;
use super::shape::ConvShape;
use crate::Result;
use crate::kernels::map::Native;
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::precision::{Precision, precision};
use crate::kernels::simd::vectorized;
use crate::kernels::storage;
use crate::kernels::weighted::{Weighted, attach};

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
    attach(Conv { shape, precision }, x, &w, bias, dims, y)
}

struct Conv {
    shape: ConvShape,
    precision: Precision,
}

impl Weighted for Conv {
    const NAME: &'static str = "conv2d";

    fn inputs(&self) -> usize {
        self.shape.inputs()
    }

    fn outputs(&self) -> (usize, usize) {
        (self.shape.outputs() / self.shape.o.max(1), self.shape.o)
    }

    fn backward_weight(&self, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        engine::backward_weight(self.precision, &self.shape, x, dy, dw);
    }

    fn backward_data(&self, dy: &[f32], w: &[f32], dx: &mut [f32], add: bool) {
        engine::backward_data(self.precision, &self.shape, dy, w, dx, add);
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
