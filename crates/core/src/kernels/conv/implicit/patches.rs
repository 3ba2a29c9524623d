//! Copies of the operands of the weight gradient.

use super::clip;
use super::weight::Chunk;
use crate::kernels::conv::shape::ConvShape;
use crate::kernels::gemm::{LINE, copy_columns};
use crate::kernels::simd::{Tap, vectorized};

/// Channels of a group from which on every tap has a product of its own.
const FEW: usize = 16;

/// Whether the taps of a pixel are put side by side.
pub(super) fn suits(shape: &ConvShape) -> bool {
    shape.c / shape.groups < FEW
}

/// The first `used` of the columns of `src` (rows of `pitch`) as rows of `width`, zeros beyond `used`.
pub(super) fn copy(src: &[f32], pitch: usize, (used, width): (usize, usize), dst: &mut [f32]) {
    copy_columns(src, pitch, 0, (used, width), dst);
}

/// Input pixels that the output pixels of a chunk read. Rows outside the map are left out, columns outside it are zeros.
pub(super) struct Window<'a> {
    shape: &'a ConvShape,
    chunk: &'a Chunk,
    /// First input row of the chunk that exists, and how many there are.
    rows: (usize, usize),
    columns: usize,
}

impl<'a> Window<'a> {
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

    /// Copies `used` channels from `channel` on, as `[pixel][width]`.
    pub(super) fn copy(&self, x: &[f32], channel: usize, (used, width): (usize, usize), dst: &mut [f32]) {
        let ConvShape { h, w, c, .. } = *self.shape;
        let left = self.shape.padding[2];
        let (start, end) = clip(-(left as isize), self.columns, w);
        let mut rows = dst.chunks_exact_mut(self.columns * width);
        for n in self.chunk.images.clone() {
            for (row, dst) in (self.rows.0..self.rows.0 + self.rows.1).zip(&mut rows) {
                dst[..start * width].fill(0.0);
                dst[end * width..].fill(0.0);
                if start < end {
                    let src = &x[((n * h + row) * w + start - left.min(start)) * c + channel..];
                    copy(src, c, (used, width), &mut dst[start * width..end * width]);
                }
            }
        }
    }

    /// The output rows that kernel row `i` gives something, as offsets into `[line][pixel][LINE]` and the copy.
    pub(super) fn taps(&self, i: usize, width: usize, taps: &mut Vec<Tap>) {
        let shape = self.shape;
        taps.clear();
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
    }
}

/// For every output pixel of a chunk what it reads, `[tap][channel]`, in rows of `pitch`; channels are first and count.
pub(super) fn copy_patches(
    shape: &ConvShape,
    chunk: &Chunk,
    (first, count): (usize, usize),
    x: &[f32],
    pitch: usize,
    dst: &mut [f32],
) {
    let ConvShape { h, w, c, kh, kw, .. } = *shape;
    let line = kw * count;
    let mut patches = dst.chunks_exact_mut(pitch);
    for n in chunk.images.clone() {
        for row in chunk.rows.clone() {
            let top = (row * shape.stride[0]) as isize - shape.padding[0] as isize;
            let used = clip(top, kh, h);
            for (column, patch) in (0..shape.ow).zip(&mut patches) {
                let left = (column * shape.stride[1]) as isize - shape.padding[2] as isize;
                let (start, end) = clip(left, kw, w);
                if used != (0, kh) || (start, end) != (0, kw) || line * kh < pitch {
                    patch.fill(0.0);
                }
                if start >= end {
                    continue;
                }
                for i in used.0..used.1 {
                    let from = (n * h + (top + i as isize) as usize) * w + (left + start as isize) as usize;
                    let dst = &mut patch[i * line + start * count..i * line + end * count];
                    if count == c {
                        dst.copy_from_slice(&x[from * c..][..(end - start) * c]);
                    } else {
                        for (dst, src) in dst.chunks_exact_mut(count).zip(x[from * c..].chunks(c)) {
                            dst.copy_from_slice(&src[first..first + count]);
                        }
                    }
                }
            }
        }
    }
}

vectorized! {
    /// The sum of `count` rows, `pitch` apart.
    pub(super) fn add_parts(parts: &[f32], pitch: usize, count: usize, out: &mut [f32]) {
        out.copy_from_slice(&parts[..out.len()]);
        for i in 1..count {
            for (out, part) in out.iter_mut().zip(&parts[i * pitch..]) {
                *out += part;
            }
        }
    }
}
