//! Direct convolution of operands rounded to bf16 by products of tiles (AMX), which are faster than Winograd's algorithm
//! in 32 bits.
//!
//! A map is rounded once, with zeros around it. Then the channels of neighbouring pixels are the rows of a tile as they
//! lie, for every tap.

mod map;
mod walk;
mod weight;

pub(super) use weight::run as backward_weight;

use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::LINE;
use crate::kernels::gemm::bf16::amx;
use crate::kernels::precision::Precision;

/// Whether a convolution is computed like this: tiles are filled if channels come in groups of 32.
pub(super) fn suits(precision: Precision, shape: &ConvShape) -> bool {
    let whole = |channels: usize| channels.is_multiple_of(2 * LINE);
    precision == Precision::Bf16
        && shape.groups == 1
        && whole(shape.c)
        && whole(shape.o)
        && !super::single::suits(shape)
        && amx::available()
}
