//! Extents of a convolution. Memory order inside the engines is channels last: `x` is `[N, H, W, C]`, `y` is
//! `[N, OH, OW, O]`; weights stay `[O, C / groups, kh, kw]` as they are saved.

use crate::{Error, Result};

/// All extents of one convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConvShape {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub o: usize,
    pub kh: usize,
    pub kw: usize,
    /// Distance of neighbouring windows, down and across.
    pub stride: [usize; 2],
    /// Zeros added at the top, bottom, left and right.
    pub padding: [usize; 4],
    pub groups: usize,
    pub oh: usize,
    pub ow: usize,
}

impl ConvShape {
    /// Extents for an input `[N, C, H, W]` (logical order) and weights `[O, C / groups, kh, kw]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not fit each other.
    pub(crate) fn new(
        x: [usize; 4],
        weight: &[usize],
        stride: [usize; 2],
        padding: [usize; 4],
        groups: usize,
    ) -> Result<Self> {
        let [n, c, h, w] = x;
        let &[o, per_group, kh, kw] = weight else {
            return Err(Error::shape("conv2d weight", "[O, C/g, kh, kw]", weight));
        };
        if stride.contains(&0) || groups == 0 || kh == 0 || kw == 0 {
            return Err(Error::shape("conv2d", "stride, groups and kernel of at least 1", weight));
        }
        if per_group * groups != c || o % groups != 0 {
            return Err(Error::shape("conv2d weight", format!("[O, {c} / {groups}, kh, kw]"), weight));
        }
        let [top, bottom, left, right] = padding;
        if h + top + bottom < kh || w + left + right < kw {
            return Err(Error::shape("conv2d", format!("at least {kh} x {kw} with padding {padding:?}"), &x));
        }
        let oh = (h + top + bottom - kh) / stride[0] + 1;
        let ow = (w + left + right - kw) / stride[1] + 1;
        Ok(Self { n, h, w, c, o, kh, kw, stride, padding, groups, oh, ow })
    }

    /// Elements of the input.
    pub(crate) fn inputs(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Elements of the output.
    pub(crate) fn outputs(&self) -> usize {
        self.n * self.oh * self.ow * self.o
    }

    /// Elements of the weights.
    pub(crate) fn weights(&self) -> usize {
        self.o * self.c / self.groups * self.kh * self.kw
    }

    /// Whether an output pixel reads just the input pixel at its place.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kh == 1 && self.kw == 1 && self.stride == [1, 1] && self.padding == [0; 4]
    }
}
