//! Shapes of a convolution and how its work is cut.

use crate::{Error, Result};

/// All extents of one convolution. Heights and widths may pad differently, because the input gradient of a
/// rectangular kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub n: usize,
    pub c: usize,
    pub h: usize,
    pub w: usize,
    pub o: usize,
    pub kh: usize,
    pub kw: usize,
    pub stride: usize,
    pub pad_h: usize,
    pub pad_w: usize,
    pub groups: usize,
    pub oh: usize,
    pub ow: usize,
}

impl Geometry {
    pub(crate) fn new(
        x: &[usize],
        w: &[usize],
        stride: usize,
        padding: usize,
        groups: usize,
    ) -> Result<Self> {
        let &[n, c, h, width] = x else { return Err(Error::shape("conv2d", "[N, C, H, W]", x)) };
        let &[o, cg, kh, kw] = w else { return Err(Error::shape("conv2d weight", "[O, C/g, kh, kw]", w)) };
        if stride == 0 || groups == 0 || kh == 0 || kw == 0 {
            return Err(Error::shape("conv2d", "stride, groups and kernel of at least 1", w));
        }
        if cg * groups != c || o % groups != 0 {
            return Err(Error::shape("conv2d weight", format!("[O, {c} / {groups}, kh, kw]"), w));
        }
        if h + 2 * padding < kh || width + 2 * padding < kw {
            return Err(Error::shape("conv2d", format!("at least {kh} x {kw} with padding {padding}"), x));
        }
        let oh = (h + 2 * padding - kh) / stride + 1;
        let ow = (width + 2 * padding - kw) / stride + 1;
        let pads = (padding, padding);
        Ok(Self { n, c, h, w: width, o, kh, kw, stride, pad_h: pads.0, pad_w: pads.1, groups, oh, ow })
    }

    /// Rows of the column matrix of one group.
    pub(crate) fn depth(&self) -> usize {
        self.c / self.groups * self.kh * self.kw
    }

    /// Output pixels of one image.
    pub(crate) fn pixels(&self) -> usize {
        self.oh * self.ow
    }

    /// Whether the column matrix is the image itself.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.kh == 1 && self.kw == 1 && self.stride == 1 && self.pad_h == 0 && self.pad_w == 0
    }

    /// The convolution that maps output gradients to input gradients (with flipped weights), where there is one.
    pub(crate) fn transposed(&self) -> Option<Self> {
        let fits = self.stride == 1 && self.pad_h < self.kh && self.pad_w < self.kw;
        fits.then(|| Self {
            c: self.o,
            h: self.oh,
            w: self.ow,
            o: self.c,
            pad_h: self.kh - 1 - self.pad_h,
            pad_w: self.kw - 1 - self.pad_w,
            oh: self.h,
            ow: self.w,
            ..*self
        })
    }
}

/// What one matrix product works on: several whole images, or some output rows of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    pub first: usize,
    pub images: usize,
    pub y0: usize,
    pub y1: usize,
}

impl Tile {
    pub(crate) fn columns(&self, geo: &Geometry) -> usize {
        self.images * (self.y1 - self.y0) * geo.ow
    }
}

/// Column matrices of about this many elements stay in a second-level cache together with the operands.
const CACHE: usize = 160 << 10;
/// Fewest and most columns of one product, where the shape allows a choice.
const COLUMNS: (usize, usize) = (256, 1024);

/// Cuts the images `first..first + images` into tiles; `whole` forbids cutting through an image.
pub(crate) fn tiles(geo: &Geometry, first: usize, images: usize, whole: bool) -> Vec<Tile> {
    let wanted = (CACHE / geo.depth().max(1)).clamp(COLUMNS.0, COLUMNS.1);
    let pixels = geo.pixels().max(1);
    if whole || pixels * 3 / 2 <= wanted {
        // At least eight tiles per pass, as far as there are images, to keep several threads busy.
        let together = (wanted / pixels).clamp(1, images.div_ceil(8).max(1));
        let starts = (0..images).step_by(together);
        return starts
            .map(|i| Tile { first: first + i, images: together.min(images - i), y0: 0, y1: geo.oh })
            .collect();
    }
    let pieces = geo.oh.div_ceil((wanted / geo.ow).max(1));
    let rows = geo.oh.div_ceil(pieces);
    let cut = move |image| {
        let starts = (0..geo.oh).step_by(rows);
        starts.map(move |y0| Tile { first: image, images: 1, y0, y1: (y0 + rows).min(geo.oh) })
    };
    (first..first + images).flat_map(cut).collect()
}
