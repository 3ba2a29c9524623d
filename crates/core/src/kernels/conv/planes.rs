//! Padded copies of images in which every tap of a convolution is a constant distance.
//!
//! The planes of several images follow one another, each `rows * width` elements. A tile of the direct engine runs along
//! them over the ends of rows and images; what it computes in between is dropped when the result is copied out.

use std::mem::MaybeUninit;

/// Places of the output pixels: pixel `(y, x)` of image `i` is element `(i * rows + y) * width + x` of a plane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub rows: usize,
    pub width: usize,
}

impl Grid {
    pub(super) fn size(&self) -> usize {
        self.rows * self.width
    }

    /// Distance of two planes that hold `images` and can be read up to `reach` elements and a tile further. It is an odd
    /// number of cache lines, lest the same pixel of all channels falls into the same cache set.
    pub(super) fn pitch(&self, images: usize, reach: usize) -> usize {
        let lines = (images * self.size() + reach + 64).div_ceil(16);
        (lines | 1) * 16
    }
}

/// One image or gradient `[planes, h, w]` after another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub data: &'a [f32],
    pub planes: usize,
    pub h: usize,
    pub w: usize,
}

impl<'a> Source<'a> {
    fn plane(&self, image: usize, plane: usize) -> &'a [f32] {
        let size = self.h * self.w;
        &self.data[(image * self.planes + plane) * size..][..size]
    }
}

/// Copies the images `first..first + images` of `source` below `top` and to the right of `left` zeros; places without a
/// source become zero, rows and columns outside of the grid are left out.
pub(super) fn pad(
    source: Source,
    (first, images): (usize, usize),
    grid: Grid,
    (top, left): (usize, usize),
    dst: &mut [f32],
    pitch: usize,
) {
    let (h, w) = (source.h.min(grid.rows - top), source.w.min(grid.width - left));
    for (plane, dst) in dst.chunks_exact_mut(pitch).take(source.planes).enumerate() {
        let mut end = 0;
        for image in 0..images {
            let pixels = source.plane(first + image, plane);
            for y in 0..h {
                let start = (image * grid.rows + top + y) * grid.width + left;
                dst[end..start].fill(0.0);
                end = start + w;
                copy(&pixels[y * source.w..][..w], &mut dst[start..end]);
            }
        }
        dst[end..].fill(0.0);
    }
}

/// As [`pad`] for strided windows: every plane becomes `phases.0 * phases.1` planes, the padded pixel
/// `(stride * y + i, stride * x + j)` is pixel `(y, x)` of the plane `(i, j)`.
pub(super) fn split(
    source: Source,
    (first, images): (usize, usize),
    grid: Grid,
    (top, left): (usize, usize),
    (stride, phases): (usize, (usize, usize)),
    dst: &mut [f32],
    pitch: usize,
) {
    let count = phases.0 * phases.1;
    for (index, dst) in dst.chunks_exact_mut(pitch).take(source.planes * count).enumerate() {
        let (plane, row, column) = (index / count, index % count / phases.1, index % phases.1);
        dst.fill(0.0);
        // The first column of this phase that lies in the image, and the one after the last.
        let x0 = left.saturating_sub(column).div_ceil(stride);
        let x1 = (left + source.w).saturating_sub(column).div_ceil(stride).min(grid.width);
        for image in 0..images {
            let pixels = source.plane(first + image, plane);
            for y in 0..grid.rows {
                let inside = (stride * y + row).checked_sub(top).filter(|y| *y < source.h);
                let Some(from) = inside.filter(|_| x0 < x1) else { continue };
                let line = &pixels[from * source.w..][..source.w][stride * x0 + column - left..];
                let target = &mut dst[(image * grid.rows + y) * grid.width..][x0..x1];
                for (t, s) in target.iter_mut().zip(line.iter().step_by(stride)) {
                    *t = *s;
                }
            }
        }
    }
}

/// Copies the pixels of one image on the grid to its place `[planes, h, w]`.
pub(super) fn collect(
    sums: &[f32],
    pitch: usize,
    image: usize,
    grid: Grid,
    (h, w): (usize, usize),
    dst: &mut [MaybeUninit<f32>],
) {
    for (sums, dst) in sums.chunks_exact(pitch).zip(dst.chunks_exact_mut(h * w)) {
        for (y, line) in dst.chunks_exact_mut(w).enumerate() {
            let source = &sums[(image * grid.rows + y) * grid.width..][..w];
            for (t, s) in line.iter_mut().zip(source) {
                t.write(*s);
            }
        }
    }
}

/// A copy for short slices, without a call.
fn copy(source: &[f32], target: &mut [f32]) {
    for (t, s) in target.iter_mut().zip(source) {
        *t = *s;
    }
}
