//! Where the tiles of a convolution lie in its input and output.

use super::transform::MOST;
use super::{ConvShape, LINE, Variant};

/// Extents of a map, channels padded to whole vectors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
}

impl Map {
    pub(super) fn elements(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// A square of `side` pixels whose first is at `(row, column)` of image `n`: `inside` of the pixel's first element,
    /// or `outside` where there is none.
    #[inline]
    fn square<P: Copy>(
        &self,
        n: usize,
        (row, column): (isize, isize),
        side: usize,
        outside: P,
        inside: impl Fn(usize) -> P,
    ) -> [P; MOST] {
        let mut out = [outside; MOST];
        // Negative numbers become large ones.
        let place = |first: isize, i: usize| first.wrapping_add_unsigned(i) as usize;
        for (i, out) in out.chunks_exact_mut(side).enumerate().take(side) {
            let y = place(row, i);
            if y < self.h {
                for (j, out) in out.iter_mut().enumerate() {
                    let x = place(column, j);
                    if x < self.w {
                        *out = inside(((n * self.h + y) * self.w + x) * self.c);
                    }
                }
            }
        }
        out
    }
}

/// The tiles of a convolution, numbered along the rows of its output, image by image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    pub variant: Variant,
    pub input: Map,
    pub output: Map,
    /// Pixel of the input where the first tile starts, usually -1.
    start: (isize, isize),
    /// Tiles in one image.
    rows: usize,
    columns: usize,
}

impl Tiles {
    /// The tiles of `y` made from `x`.
    pub(super) fn new(variant: Variant, s: &ConvShape) -> Self {
        let input = Map { n: s.n, h: s.h, w: s.w, c: s.c.next_multiple_of(LINE) };
        let output = Map { n: s.n, h: s.oh, w: s.ow, c: s.o.next_multiple_of(LINE) };
        Self::of(variant, input, output, (-(s.padding[0] as isize), -(s.padding[2] as isize)))
    }

    /// The tiles of `dx` made from `dy`: a convolution with padding `2 - padding`.
    pub(super) fn transposed(variant: Variant, s: &ConvShape) -> Self {
        let Self { input, output, .. } = Self::new(variant, s);
        Self::of(variant, output, input, (s.padding[0] as isize - 2, s.padding[2] as isize - 2))
    }

    fn of(variant: Variant, input: Map, output: Map, start: (isize, isize)) -> Self {
        let m = variant.m();
        Self { variant, input, output, start, rows: output.h.div_ceil(m), columns: output.w.div_ceil(m) }
    }

    pub(super) fn count(&self) -> usize {
        self.output.n * self.rows * self.columns
    }

    /// Image, row and column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        (tile / self.columns / self.rows, tile / self.columns % self.rows, tile % self.columns)
    }

    /// The input pixels of `tile` in `x`, `zeros` where there are none.
    pub(super) fn inputs(&self, tile: usize, x: &[f32], zeros: &[f32]) -> [*const f32; MOST] {
        assert!(x.len() >= self.input.elements() && zeros.len() >= self.input.c, "winograd: input too short");
        let (n, row, column) = self.place(tile);
        let first = |start: isize, i: usize| start.wrapping_add_unsigned(i * self.variant.m());
        let first = (first(self.start.0, row), first(self.start.1, column));
        // SAFETY: `square` names pixels of the map, whose length was asserted.
        self.input.square(n, first, self.variant.t(), zeros.as_ptr(), |at| unsafe { x.as_ptr().add(at) })
    }

    /// Those of the pixels of a tile that its neighbours to the left and above do not have, for [`Job::ahead`].
    pub(super) fn fresh(&self, pixels: &[*const f32; MOST]) -> ([*const f32; 16], usize) {
        let (m, t) = (self.variant.m(), self.variant.t());
        let mut out = [std::ptr::null(); 16];
        for (i, out) in out.chunks_exact_mut(m).enumerate().take(m) {
            out.copy_from_slice(&pixels[(i + 2) * t + 2..][..m]);
        }
        (out, m * m)
    }

    /// The output pixels of `tile` as `inside` makes them of the place of their first element, `outside` where there
    /// are none.
    pub(super) fn outputs<P: Copy>(&self, tile: usize, outside: P, inside: impl Fn(usize) -> P) -> [P; MOST] {
        let (n, row, column) = self.place(tile);
        let m = self.variant.m();
        self.output.square(n, ((row * m) as isize, (column * m) as isize), m, outside, inside)
    }
}
