//! Matrix products whose operands are rounded to bf16 and whose sums are 32-bit, with the interface of the 32-bit ones.
//!
//! Processors with AMX multiply tiles of such numbers; those with AVX512-BF16 multiply two pairs in the place of one
//! 32-bit pair. All others round the operands and multiply them as 32-bit numbers, which is exact: all ways give the same
//! values but for the order of the sums. With AMX an operand may also be the sum of two such numbers, 16 bits of it: three
//! products take the place of one. Rounding is to the nearest, ties to even; what is below the smallest normal number counts as zero (as
//! the instructions have it), infinities and NaN stay.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pack;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod weight;

use super::Extents;
use crate::kernels::memory::Buffer;
use crate::kernels::parallel::{self, Disjoint};
use crate::kernels::precision::Precision;
use crate::kernels::simd::vectorized;

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As 32-bit products of rounded operands.
    Rounded,
    /// With the instructions for bf16.
    #[cfg(target_arch = "x86_64")]
    Native(Kernel),
}

/// The instructions for bf16.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Products of vectors.
    Avx512,
    /// Products of tiles.
    Amx,
    /// Products of tiles, three in the place of one: operands are sums of two bf16 numbers.
    AmxSplit,
}

#[cfg(target_arch = "x86_64")]
impl Kernel {
    /// Whether this machine has the instructions.
    fn available(self) -> bool {
        is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && (self == Self::Avx512 || amx::available())
    }

    /// bf16 numbers of which an operand is the sum.
    fn parts(self) -> usize {
        if self == Self::AmxSplit { 2 } else { 1 }
    }
}

impl Way {
    /// The best way on this machine for a precision; none where operands are not rounded.
    pub(crate) fn of(precision: Precision) -> Option<Self> {
        match precision {
            Precision::F32 | Precision::F32Exact => None,
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16 => [Kernel::Amx, Kernel::Avx512]
                .into_iter()
                .find(|kernel| kernel.available())
                .map(Self::Native)
                .or(Some(Self::Rounded)),
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16x3 => Kernel::AmxSplit.available().then_some(Self::Native(Kernel::AmxSplit)),
            #[cfg(not(target_arch = "x86_64"))]
            Precision::Bf16 => Some(Self::Rounded),
            #[cfg(not(target_arch = "x86_64"))]
            Precision::Bf16x3 => None,
        }
    }

    /// Whether this machine has instructions for it.
    pub(crate) fn is_native(self) -> bool {
        !matches!(self, Self::Rounded)
    }
}

/// `y = x w^T + bias`; the bias is not rounded.
pub(crate) fn linear(
    way: Way,
    (rows, c, o): Extents,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    assert!(x.len() >= rows * c && w.len() >= o * c, "matrix product: operands too short");
    match way {
        Way::Rounded => super::linear(rows, c, o, &round(&x[..rows * c]), &round(&w[..o * c]), bias, y),
        #[cfg(target_arch = "x86_64")]
        Way::Native(kernel) => product::forward(kernel, (rows, c, o), x, w, bias, y),
    }
}

/// `dx = dy w`, or added to `dx`, which is not rounded.
pub(crate) fn backward_data(
    way: Way,
    (rows, c, o): Extents,
    dy: &[f32],
    w: &[f32],
    dx: &mut [f32],
    add: bool,
) {
    assert!(dy.len() >= rows * o && w.len() >= o * c, "matrix product: operands too short");
    match way {
        Way::Rounded => {
            super::linear_backward_data(rows, c, o, &round(&dy[..rows * o]), &round(&w[..o * c]), dx, add);
        }
        #[cfg(target_arch = "x86_64")]
        Way::Native(kernel) => product::backward_data(kernel, (rows, c, o), dy, w, dx, add),
    }
}

/// `dw = dy^T x`.
pub(crate) fn backward_weight(way: Way, (rows, c, o): Extents, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    assert!(x.len() >= rows * c && dy.len() >= rows * o, "matrix product: operands too short");
    match way {
        Way::Rounded => {
            super::linear_backward_weight(rows, c, o, &round(&x[..rows * c]), &round(&dy[..rows * o]), dw);
        }
        #[cfg(target_arch = "x86_64")]
        Way::Native(kernel) => weight::backward_weight(kernel, (rows, c, o), x, dy, dw),
    }
}

/// `values` rounded to bf16.
fn round(values: &[f32]) -> Buffer {
    const CHUNK: usize = 1 << 15;
    let mut rounded = Buffer::new(values.len());
    let out = Disjoint::new(&mut rounded);
    parallel::for_each(values.len().div_ceil(CHUNK), |chunk| {
        let first = chunk * CHUNK;
        let count = CHUNK.min(values.len() - first);
        // SAFETY: chunks do not overlap.
        round_all(&values[first..first + count], unsafe { out.slice(first, count) });
    });
    rounded
}

vectorized! {
    /// `from` rounded to bf16.
    fn round_all(from: &[f32], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = rounded(*from);
        }
    }
}

/// The bf16 number nearest to `x`.
#[inline(always)]
fn rounded(x: f32) -> f32 {
    const KEPT: u32 = 0xffff_0000;
    const QUIET: u32 = 0x0040_0000;
    const SIGN: u32 = 0x8000_0000;
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & KEPT;
    // What makes a NaN one may lie in the bits that are cut off.
    let nearest = if x.is_nan() { (bits | QUIET) & KEPT } else { nearest };
    f32::from_bits(if x.abs() < f32::MIN_POSITIVE { bits & SIGN } else { nearest })
}
