//! The im2col engine: column matrices of cache size and the `gemm` crate.

use gemm::Parallelism;

use super::geometry::{Geometry, Tile, tiles};
use crate::kernels::parallel::{self, Output};

/// Largest memory for the partial weight gradients, in elements.
const PARTIALS: usize = 16 << 20;

/// A strided row-major matrix operand: pointer, row stride, column stride.
type Operand = (*const f32, usize, usize);

/// `dst = lhs * rhs` or `dst += lhs * rhs`; `dst` is `[m, n]` with unit column stride.
///
/// # Safety
/// All three matrices lie in memory as their strides say, and nobody else uses `dst`.
unsafe fn multiply(
    [m, n, k]: [usize; 3],
    dst: (*mut f32, usize),
    lhs: Operand,
    rhs: Operand,
    accumulate: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.0,
            1,
            dst.1 as isize,
            accumulate,
            lhs.0,
            lhs.2 as isize,
            lhs.1 as isize,
            rhs.0,
            rhs.2 as isize,
            rhs.1 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Output `[N, O, OH, OW]` from the input `[N, C, H, W]` and the weight `[O, C/g, kh, kw]`.
pub(crate) fn forward(geo: &Geometry, x: &[f32], w: &[f32]) -> Vec<f32> {
    let tiles = tiles(geo, 0, geo.n, false);
    let len = geo.n * geo.o * geo.pixels();
    // SAFETY: the tiles cover all images and rows, each with all channels.
    unsafe {
        parallel::build(len, |out| {
            parallel::for_each(tiles.len(), |i| forward_tile(geo, &tiles[i], x, w, out))
        })
    }
}

fn forward_tile(geo: &Geometry, tile: &Tile, x: &[f32], w: &[f32], out: &Output) {
    let (depth, columns, pixels) = (geo.depth(), tile.columns(geo), geo.pixels());
    let per_group = geo.o / geo.groups;
    let single = tile.images == 1;
    let staged = if single { 0 } else { per_group * columns };
    parallel::scratch(depth * columns, staged, |col, staging| {
        for group in 0..geo.groups {
            let rhs = columns_of(geo, tile, group, x, col);
            let lhs = (w[group * per_group * depth..].as_ptr(), depth, 1);
            let shape = [per_group, columns, depth];
            if single {
                let start = (tile.first * geo.o + group * per_group) * pixels + tile.y0 * geo.ow;
                let len = (per_group - 1) * pixels + columns;
                // SAFETY: rows of distinct images, channels and pixel ranges are disjoint between tiles; `lhs` holds
                // per_group x depth and `rhs` depth x columns elements.
                unsafe { multiply(shape, (out.pointer(start, len), pixels), lhs, rhs, false) };
            } else {
                // SAFETY: `staging` holds per_group x columns elements.
                unsafe { multiply(shape, (staging.as_mut_ptr(), columns), lhs, rhs, false) };
                for image in 0..tile.images {
                    for (o, row) in staging.chunks_exact(columns).enumerate() {
                        let start = ((tile.first + image) * geo.o + group * per_group + o) * pixels;
                        // SAFETY: one row of one image of this tile.
                        let target = unsafe { out.slice(start, pixels) };
                        target.write_copy_of_slice(&row[image * pixels..(image + 1) * pixels]);
                    }
                }
            }
        }
    });
}

/// Input gradient `[N, C, H, W]` from the output gradient `[N, O, OH, OW]`.
pub(crate) fn backward_data(geo: &Geometry, dy: &[f32], w: &[f32]) -> Vec<f32> {
    if let Some(transposed) = geo.transposed() {
        return forward(&transposed, dy, &flip(geo, w));
    }
    let tiles = tiles(geo, 0, geo.n, true);
    let len = geo.n * geo.c * geo.h * geo.w;
    // SAFETY: the tiles cover all images, and each begins by clearing its own.
    unsafe {
        parallel::build(len, |out| {
            parallel::for_each(tiles.len(), |i| scatter_tile(geo, &tiles[i], dy, w, out))
        })
    }
}

/// Weights of the transposed convolution: `[C, O/g, kh, kw]`, both spatial axes reversed.
fn flip(geo: &Geometry, w: &[f32]) -> Vec<f32> {
    let (cg, og, taps) = (geo.c / geo.groups, geo.o / geo.groups, geo.kh * geo.kw);
    let mut flipped = Vec::with_capacity(w.len());
    for c in 0..geo.c {
        let (group, inner) = (c / cg, c % cg);
        for o in group * og..(group + 1) * og {
            let start = (o * cg + inner) * taps;
            flipped.extend(w[start..start + taps].iter().rev());
        }
    }
    flipped
}

fn scatter_tile(geo: &Geometry, tile: &Tile, dy: &[f32], w: &[f32], out: &Output) {
    let (depth, columns, per_group) = (geo.depth(), tile.columns(geo), geo.o / geo.groups);
    let (plane, cg) = (geo.h * geo.w, geo.c / geo.groups);
    let len = tile.images * geo.c * plane;
    // SAFETY: the images of this tile belong to no other.
    let dx = unsafe { out.slice(tile.first * geo.c * plane, len) };
    for value in dx.iter_mut() {
        value.write(0.0);
    }
    // SAFETY: every element was written in the loop above, and MaybeUninit<f32> has the layout of f32.
    let dx = unsafe { std::slice::from_raw_parts_mut(dx.as_mut_ptr().cast::<f32>(), len) };
    let staged = if tile.images == 1 { 0 } else { per_group * columns };
    parallel::scratch(depth * columns, staged, |col, staging| {
        for group in 0..geo.groups {
            let rhs = gradient_of(geo, tile, group, dy, staging);
            let lhs = (w[group * per_group * depth..].as_ptr(), 1, depth);
            // SAFETY: `col` holds depth x columns elements, `lhs` is the weight read by columns.
            unsafe { multiply([depth, columns, per_group], (col.as_mut_ptr(), columns), lhs, rhs, false) };
            for image in 0..tile.images {
                let target = &mut dx[(image * geo.c + group * cg) * plane..][..cg * plane];
                col2im(geo, &col[image * geo.pixels()..], columns, target);
            }
        }
    });
}

/// Adds the column matrix of one image (row stride `stride`) back to its pixels.
fn col2im(geo: &Geometry, col: &[f32], stride: usize, dx: &mut [f32]) {
    let mut row = 0;
    for plane in dx.chunks_exact_mut(geo.h * geo.w) {
        for ky in 0..geo.kh {
            let (y0, y1) = valid(geo.oh, geo.h, ky, geo.pad_h, geo.stride);
            for kx in 0..geo.kw {
                let (x0, x1) = valid(geo.ow, geo.w, kx, geo.pad_w, geo.stride);
                for oy in y0..y1 {
                    let iy = oy * geo.stride + ky - geo.pad_h;
                    let source = &col[row * stride + oy * geo.ow..][..geo.ow];
                    let target = &mut plane[iy * geo.w..(iy + 1) * geo.w];
                    let places = (x0 * geo.stride + kx).saturating_sub(geo.pad_w);
                    let target = target[places.min(geo.w)..].iter_mut().step_by(geo.stride);
                    for (t, s) in target.zip(&source[x0.min(x1)..x1]) {
                        *t += s;
                    }
                }
                row += 1;
            }
        }
    }
}

/// Weight gradient `[O, C/g, kh, kw]`. Images are cut into groups by shape alone, each group is summed on its own,
/// and the partial sums are added in order.
pub(crate) fn backward_weight(geo: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let size = geo.o * geo.depth();
    let parts = (PARTIALS / size.max(1)).clamp(4, 16).min(geo.n.max(1));
    let bounds = |part: usize| part * geo.n / parts;
    let partial = |part: usize, out: &Output| {
        let (first, last) = (bounds(part), bounds(part + 1));
        // SAFETY: one part of the partial sums for each unit.
        let target = unsafe { out.pointer(part * size, size) };
        for (i, tile) in tiles(geo, first, last - first, false).iter().enumerate() {
            // SAFETY: `target` has `size` elements; the first tile overwrites them.
            unsafe { weight_tile(geo, tile, x, dy, target, i > 0) };
        }
    };
    // SAFETY: parts <= n, so that every part has an image and is overwritten as a whole.
    let sums =
        unsafe { parallel::build(parts * size, |out| parallel::for_each(parts, |part| partial(part, out))) };
    if parts == 1 {
        return sums;
    }
    const BLOCK: usize = 8192;
    let add = |block: usize, out: &Output| {
        let start = block * BLOCK;
        let len = BLOCK.min(size - start);
        // SAFETY: blocks are disjoint.
        let target = unsafe { out.slice(start, len) };
        target.write_copy_of_slice(&sums[start..start + len]);
        for part in 1..parts {
            for (t, s) in target.iter_mut().zip(&sums[part * size + start..][..len]) {
                // SAFETY: initialised by the copy above.
                unsafe { *t.assume_init_mut() += s };
            }
        }
    };
    // SAFETY: the blocks cover 0..size.
    unsafe { parallel::build(size, |out| parallel::for_each(size.div_ceil(BLOCK), |block| add(block, out))) }
}

/// # Safety
/// `target` points to `O * depth` elements that nobody else uses; initialised if `accumulate`.
unsafe fn weight_tile(
    geo: &Geometry,
    tile: &Tile,
    x: &[f32],
    dy: &[f32],
    target: *mut f32,
    accumulate: bool,
) {
    let (depth, columns, per_group) = (geo.depth(), tile.columns(geo), geo.o / geo.groups);
    let staged = if tile.images == 1 { 0 } else { per_group * columns };
    parallel::scratch(depth * columns, staged, |col, staging| {
        for group in 0..geo.groups {
            let (col, row_stride, _) = columns_of(geo, tile, group, x, col);
            let lhs = gradient_of(geo, tile, group, dy, staging);
            // SAFETY: the group's rows lie inside `target`; the column matrix is read transposed.
            unsafe {
                let dst = (target.add(group * per_group * depth), depth);
                multiply([per_group, depth, columns], dst, lhs, (col, 1, row_stride), accumulate);
            }
        }
    });
}

/// The column matrix `[depth, columns]` of a tile: the image itself where possible, otherwise written to `scratch`.
fn columns_of(geo: &Geometry, tile: &Tile, group: usize, x: &[f32], scratch: &mut [f32]) -> Operand {
    let (plane, cg) = (geo.h * geo.w, geo.c / geo.groups);
    let image = |i: usize| &x[((tile.first + i) * geo.c + group * cg) * plane..][..cg * plane];
    if geo.is_pointwise() && tile.images == 1 {
        return (image(0)[tile.y0 * geo.w..].as_ptr(), plane, 1);
    }
    let columns = tile.columns(geo);
    for i in 0..tile.images {
        im2col(geo, image(i), (tile.y0, tile.y1), &mut scratch[i * geo.pixels()..], columns);
    }
    (scratch.as_ptr(), columns, 1)
}

/// The output gradient `[O/g, columns]` of a tile, gathered into `scratch` where it spans images.
fn gradient_of(geo: &Geometry, tile: &Tile, group: usize, dy: &[f32], scratch: &mut [f32]) -> Operand {
    let (pixels, per_group) = (geo.pixels(), geo.o / geo.groups);
    let image =
        |i: usize| &dy[((tile.first + i) * geo.o + group * per_group) * pixels..][..per_group * pixels];
    if tile.images == 1 {
        return (image(0)[tile.y0 * geo.ow..].as_ptr(), pixels, 1);
    }
    let columns = tile.columns(geo);
    for i in 0..tile.images {
        for (row, source) in image(i).chunks_exact(pixels).enumerate() {
            scratch[row * columns + i * pixels..][..pixels].copy_from_slice(source);
        }
    }
    (scratch.as_ptr(), columns, 1)
}

/// The output places `first..last` of an axis whose tap `k` falls inside the input.
fn valid(out: usize, input: usize, k: usize, pad: usize, stride: usize) -> (usize, usize) {
    let first = pad.saturating_sub(k).div_ceil(stride).min(out);
    let last = if input + pad > k { ((input + pad - k - 1) / stride + 1).min(out) } else { 0 };
    (first, last.max(first))
}

/// Writes the rows of the column matrix that belong to the output rows `rows` of one image `[C/g, H, W]`; consecutive
/// rows of `dst` are `stride` apart.
fn im2col(geo: &Geometry, x: &[f32], rows: (usize, usize), dst: &mut [f32], stride: usize) {
    let len = (rows.1 - rows.0) * geo.ow;
    let same_width = geo.stride == 1 && geo.ow == geo.w;
    let mut row = 0;
    for plane in x.chunks_exact(geo.h * geo.w) {
        for ky in 0..geo.kh {
            let (y0, y1) = valid(geo.oh, geo.h, ky, geo.pad_h, geo.stride);
            let (y0, y1) = (y0.clamp(rows.0, rows.1), y1.clamp(rows.0, rows.1));
            for kx in 0..geo.kw {
                let target = &mut dst[row * stride..row * stride + len];
                row += 1;
                target[..(y0 - rows.0) * geo.ow].fill(0.0);
                let end = (y1.max(y0) - rows.0) * geo.ow;
                target[end..].fill(0.0);
                let (x0, x1) = valid(geo.ow, geo.w, kx, geo.pad_w, geo.stride);
                let body = &mut target[(y0 - rows.0) * geo.ow..end];
                if body.is_empty() {
                    continue;
                }
                let first = (y0 * geo.stride + ky) - geo.pad_h;
                if same_width {
                    shifted_copy(plane, (first * geo.w + kx) as isize - geo.pad_w as isize, body);
                    for line in body.chunks_exact_mut(geo.ow) {
                        line[..x0].fill(0.0);
                        line[x1..].fill(0.0);
                    }
                } else {
                    for (i, line) in body.chunks_exact_mut(geo.ow).enumerate() {
                        let source = &plane[(first + i * geo.stride) * geo.w..][..geo.w];
                        copy_line(geo, source, kx, (x0, x1), line);
                    }
                }
            }
        }
    }
}

/// `dst[i] = src[shift + i]` where that exists; other places keep what they had (they are padding, cleared after).
fn shifted_copy(src: &[f32], shift: isize, dst: &mut [f32]) {
    let skip = shift.min(0).unsigned_abs().min(dst.len());
    let start = shift.max(0).unsigned_abs().min(src.len());
    let len = (dst.len() - skip).min(src.len() - start);
    dst[skip..skip + len].copy_from_slice(&src[start..start + len]);
}

fn copy_line(geo: &Geometry, source: &[f32], kx: usize, (x0, x1): (usize, usize), line: &mut [f32]) {
    line[..x0].fill(0.0);
    line[x1..].fill(0.0);
    if x0 >= x1 {
        return;
    }
    let start = x0 * geo.stride + kx - geo.pad_w;
    let line = &mut line[x0..x1];
    match geo.stride {
        1 => line.copy_from_slice(&source[start..start + line.len()]),
        stride => {
            for (t, s) in line.iter_mut().zip(source[start..].iter().step_by(stride)) {
                *t = *s;
            }
        }
    }
}
