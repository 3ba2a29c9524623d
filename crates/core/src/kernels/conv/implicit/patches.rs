//! Copies of the operands of the weight gradient.

use super::clip;
use super::weight::Chunk;
use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::{Columns, LINE, copy_columns};
use crate::kernels::simd::{PANEL, Tap, vectorized};

/// Channels of a group from which on every tap has a product of its own.
const FEW: usize = 16;

/// Whether the taps of a pixel are put side by side.
pub(super) fn suits(shape: &ConvShape) -> bool {
    shape.c / shape.groups < FEW
}

/// Input pixels that the output pixels of a chunk read. Rows outside the map are left out, columns outside are zeros.
pub(super) struct Window<'a> {
    shape: &'a ConvShape,
    chunk: &'a Chunk,
    /// First input row of the chunk that exists, and how many there are.
    rows: (usize, usize),
    columns: usize,
}

impl<'a> Window<'a> {
    /// The window of a chunk.
    pub(super) fn new(shape: &'a ConvShape, chunk: &'a Chunk) -> Self {
        let low = (chunk.rows.start * shape.stride[0]) as isize - shape.padding[0] as isize;
        let reach = (chunk.rows.len() - 1) * shape.stride[0] + shape.kh;
        let (start, end) = clip(low, reach, shape.h);
        let rows = ((low + start as isize).max(0) as usize, end - start);
        Self { shape, chunk, rows, columns: (shape.ow - 1) * shape.stride[1] + shape.kw }
    }

    /// Pixels of the copy.
    pub(super) fn pixels(&self) -> usize {
        self.chunk.images.len() * self.rows.1 * self.columns
    }

    /// Copies the channels from `channel` on into panels of `[pixel][width]`, row by row: what lies together is read
    /// together.
    pub(super) fn copy(&self, x: &[f32], channel: usize, columns: Columns, dst: &mut [f32]) {
        let ConvShape { h, w, c, .. } = *self.shape;
        let left = self.shape.padding[2];
        let (start, end) = clip(-(left as isize), self.columns, w);
        for (i, n) in self.chunk.images.clone().enumerate() {
            for row in 0..self.rows.1 {
                for panel in 0..columns.panels() {
                    let (used, width) = (columns.used(panel), columns.width(panel));
                    let place =
                        panel * PANEL * self.pixels() + (i * self.rows.1 + row) * self.columns * width;
                    let dst = &mut dst[place..][..self.columns * width];
                    dst[..start * width].fill(0.0);
                    dst[end * width..].fill(0.0);
                    if start < end {
                        let from = (n * h + self.rows.0 + row) * w + start - left.min(start);
                        let dst = &mut dst[start * width..end * width];
                        copy_columns(&x[from * c + channel..], c, panel * PANEL, (used, width), dst);
                    }
                }
            }
        }
    }

    /// The output rows that kernel row `i` gives something, as offsets into `[line][pixel][LINE]` and the copy.
    pub(super) fn taps(&self, i: usize, width: usize) -> Vec<Tap> {
        let shape = self.shape;
        let mut taps = Vec::new();
        for n in 0..self.chunk.images.len() {
            for (r, row) in self.chunk.rows.clone().enumerate() {
                let from = (row * shape.stride[0] + i).checked_sub(shape.padding[0]);
                let Some(from) = from.filter(|&from| from < shape.h) else { continue };
                taps.push(Tap {
                    a: (n * self.chunk.rows.len() + r) * shape.ow * LINE,
                    b: (n * self.rows.1 + from - self.rows.0) * self.columns * width,
                });
            }
        }
        taps
    }
}

/// Floats of the patches of `pixels` pixels, and some that the last copy may write.
pub(super) fn len(pixels: usize, columns: Columns) -> usize {
    pixels * columns.padded() + LINE
}

/// For every output pixel of a chunk what it reads, `[tap][channel]`, in rows of as many elements as the columns have
/// when padded (with anything); channels are first and count.
pub(super) fn copy_patches(
    shape: &ConvShape,
    chunk: &Chunk,
    (first, count): (usize, usize),
    x: &[f32],
    columns: Columns,
    dst: &mut [f32],
) {
    let ConvShape { h, w, c, kh, kw, .. } = *shape;
    // Pieces that lie together in the input: kernel rows, or taps where a pixel has other channels too.
    let (across, piece) = if count == c { (1, kw * c) } else { (kw, count) };
    let reach = ((kh - 1) * w + across - 1) * c + piece.next_multiple_of(LINE);
    let mut place = 0;
    for n in chunk.images.clone() {
        for row in chunk.rows.clone() {
            let top = (row * shape.stride[0]) as isize - shape.padding[0] as isize;
            let used = clip(top, kh, h);
            for column in 0..shape.ow {
                let left = (column * shape.stride[1]) as isize - shape.padding[2] as isize;
                let (start, end) = clip(left, kw, w);
                let patch = &mut dst[place..];
                place += columns.padded();
                if used == (0, kh) && (start, end) == (0, kw) {
                    let from = ((n * h + top as usize) * w + left as usize) * c + first;
                    if from + reach <= x.len() {
                        copy_pieces(&x[from..], (w * c, c), (kh, across), piece, patch);
                        continue;
                    }
                }
                patch[..columns.0].fill(0.0);
                if start >= end {
                    continue;
                }
                for i in used.0..used.1 {
                    let from = (n * h + (top + i as isize) as usize) * w + (left + start as isize) as usize;
                    let dst = &mut patch[(i * kw + start) * count..(i * kw + end) * count];
                    for (dst, src) in dst.chunks_exact_mut(count).zip(x[from * c..].chunks(c)) {
                        dst.copy_from_slice(&src[first..first + count]);
                    }
                }
            }
        }
    }
}

vectorized! {
    /// Pieces of `piece` floats, so many down and across and so far apart, one after the other. Whole lines are copied:
    /// each piece overwrites what the one before has written too much.
    fn copy_pieces(
        src: &[f32],
        apart: (usize, usize),
        count: (usize, usize),
        piece: usize,
        dst: &mut [f32],
    ) {
        let mut place = 0;
        for i in 0..count.0 {
            for j in 0..count.1 {
                let from = i * apart.0 + j * apart.1;
                for k in (0..piece).step_by(LINE) {
                    dst[place + k..][..LINE].copy_from_slice(&src[from + k..][..LINE]);
                }
                place += piece;
            }
        }
    }
}
