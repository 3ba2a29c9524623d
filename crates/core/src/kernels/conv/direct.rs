//! The direct engine: padded copies of a few images and register tiles that run along their pixels.
//!
//! For few channels the operands of a matrix product are too small to be worth packing and a column matrix is nine
//! times its image. Here an image is copied once with its padding, and a tap is an offset into that copy. Strided
//! windows read one copy per residue of the stride, so that they are offsets as well.

use super::geometry::Geometry;
use super::planes::{Grid, Source, collect, pad, split};
use super::simd::Kernels;
use crate::kernels::parallel::{self, Output};

/// Elements that the copies of one unit of work should take in a second-level cache.
const CACHE: usize = 128 << 10;
/// Largest copies of a single image, in elements, and largest weight: beyond them the operands do not stay in the
/// cache, and the blocking of a matrix product is better.
const LARGEST: (usize, usize) = (192 << 10, 160 << 10);
/// Pixels of one pass over the taps of the weight gradient: some rows of output gradients stay in the first-level cache.
const RUN: usize = 512;
/// Largest memory for the partial weight gradients, in elements.
const PARTIALS: usize = 1 << 20;

/// A convolution in terms of copied planes.
#[derive(Debug)]
struct Plan<'a> {
    geo: &'a Geometry,
    grid: Grid,
    phases: (usize, usize),
}

impl<'a> Plan<'a> {
    fn new(geo: &'a Geometry) -> Self {
        let (below, right) = ((geo.kh - 1) / geo.stride, (geo.kw - 1) / geo.stride);
        // The padding on the right of a row is the padding on the left of the next, and so for images.
        let shared = if geo.stride == 1 { (geo.pad_h.min(below), geo.pad_w.min(right)) } else { (0, 0) };
        let grid = Grid { rows: geo.oh + below - shared.0, width: geo.ow + right - shared.1 };
        Self { geo, grid, phases: (geo.kh.min(geo.stride), geo.kw.min(geo.stride)) }
    }

    fn planes(&self) -> usize {
        self.geo.c * self.phases.0 * self.phases.1
    }

    /// How far the last tap reaches in a plane.
    fn reach(&self) -> usize {
        (self.geo.kh - 1) / self.geo.stride * self.grid.width + (self.geo.kw - 1) / self.geo.stride
    }

    /// The place of every `(c, ky, kx)` in the copied planes.
    fn offsets(&self, pitch: usize) -> Vec<usize> {
        let (geo, s) = (self.geo, self.geo.stride);
        let mut offsets = Vec::with_capacity(geo.depth());
        for c in 0..geo.c {
            for ky in 0..geo.kh {
                for kx in 0..geo.kw {
                    let plane = (c * self.phases.0 + ky % s) * self.phases.1 + kx % s;
                    offsets.push(plane * pitch + ky / s * self.grid.width + kx / s);
                }
            }
        }
        offsets
    }

    /// Images of one unit of work out of `images`.
    fn together(&self, images: usize) -> usize {
        let size = (self.planes() + self.geo.o) * self.grid.size();
        (CACHE / size.max(1)).clamp(1, images.max(1))
    }

    fn copy(&self, x: &[f32], images: (usize, usize), dst: &mut [f32], pitch: usize) {
        let geo = self.geo;
        let source = Source { data: x, planes: geo.c, h: geo.h, w: geo.w };
        let corner = (geo.pad_h, geo.pad_w);
        if geo.stride == 1 {
            pad(source, images, self.grid, corner, dst, pitch);
        } else {
            split(source, images, self.grid, corner, (geo.stride, self.phases), dst, pitch);
        }
    }
}

/// Whether this engine is the faster one for `geo`.
pub(super) fn suits(geo: &Geometry) -> bool {
    let plan = Plan::new(geo);
    let copies = (plan.planes() + geo.o) * plan.grid.size();
    geo.groups == 1
        && copies <= LARGEST.0
        && geo.o * geo.depth() <= LARGEST.1
        && geo.pad_h < geo.kh
        && geo.pad_w < geo.kw
}

/// Weights as the tiles read them, `[rows / block, taps, block]`, filled up with zeros; `at(row, tap)` is an element.
fn pack(rows: usize, taps: usize, block: usize, at: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut packed = Vec::with_capacity(rows.next_multiple_of(block) * taps);
    for first in (0..rows).step_by(block) {
        for tap in 0..taps {
            packed.extend((first..first + block).map(|row| if row < rows { at(row, tap) } else { 0.0 }));
        }
    }
    packed
}

/// The part of `buffer` that begins at a cache line.
fn aligned(buffer: &mut [f32]) -> &mut [f32] {
    let skip = buffer.as_ptr().align_offset(64).min(15);
    &mut buffer[skip..]
}

/// All rows of `w` (packed) for the pixels `0..pixels` of the planes `x`, to `out` with rows `out_pitch` apart.
fn products(
    kernels: &Kernels,
    w: &[f32],
    offsets: &[usize],
    x: &[f32],
    pixels: usize,
    (out, out_pitch): (&mut [f32], usize),
) {
    let blocks = w.len() / (offsets.len() * kernels.block).max(1);
    let most = kernels.pixels.len() * kernels.lanes;
    let last = offsets.iter().max().copied().unwrap_or(0);
    assert!(last + pixels.next_multiple_of(kernels.lanes) <= x.len());
    assert!(pixels.next_multiple_of(kernels.lanes) <= out_pitch);
    assert!(blocks * kernels.block * out_pitch <= out.len());
    for start in (0..pixels).step_by(most) {
        let vectors = (pixels - start).min(most).div_ceil(kernels.lanes);
        let tile = kernels.pixels[vectors - 1];
        for block in 0..blocks {
            let weights = &w[block * offsets.len() * kernels.block..];
            let out = &mut out[block * kernels.block * out_pitch + start..];
            // SAFETY: the extents are asserted above, and `kernels` come from `simd::available`.
            unsafe { tile(weights.as_ptr(), offsets, x[start..].as_ptr(), out.as_mut_ptr(), out_pitch) };
        }
    }
}

/// Output `[N, O, OH, OW]` from the input `[N, C, H, W]` and the weight `[O, C, kh, kw]`.
pub(super) fn forward(kernels: &Kernels, geo: &Geometry, x: &[f32], w: &[f32]) -> Vec<f32> {
    let depth = geo.depth();
    forward_packed(kernels, geo, x, &pack(geo.o, depth, kernels.block, |o, tap| w[o * depth + tap]))
}

fn forward_packed(kernels: &Kernels, geo: &Geometry, x: &[f32], w: &[f32]) -> Vec<f32> {
    let plan = Plan::new(geo);
    let together = plan.together(geo.n.div_ceil(8));
    let (pitch, out_pitch) = (plan.grid.pitch(together, plan.reach()), plan.grid.pitch(together, 0));
    let offsets = plan.offsets(pitch);
    let rows = geo.o.next_multiple_of(kernels.block);
    let size = geo.o * geo.pixels();
    let unit = |i: usize, out: &Output| {
        let first = i * together;
        let images = together.min(geo.n - first);
        parallel::scratch(plan.planes() * pitch + 16, rows * out_pitch + 16, |copies, sums| {
            let (copies, sums) = (aligned(copies), aligned(sums));
            plan.copy(x, (first, images), copies, pitch);
            products(kernels, w, &offsets, copies, images * plan.grid.size(), (sums, out_pitch));
            for image in 0..images {
                // SAFETY: this image belongs to this unit alone.
                let target = unsafe { out.slice((first + image) * size, size) };
                collect(sums, out_pitch, image, plan.grid, (geo.oh, geo.ow), target);
            }
        });
    };
    // SAFETY: the units cover all images.
    unsafe {
        parallel::build(geo.n * size, |out| parallel::for_each(geo.n.div_ceil(together), |i| unit(i, out)))
    }
}

/// Input gradient `[N, C, H, W]` from the output gradient `[N, O, OH, OW]`; nothing for strided windows.
pub(super) fn backward_data(kernels: &Kernels, geo: &Geometry, dy: &[f32], w: &[f32]) -> Option<Vec<f32>> {
    let transposed = geo.transposed()?;
    let taps = geo.kh * geo.kw;
    // Output channels become input channels, and the windows are turned about.
    let at = |c: usize, tap: usize| w[(tap / taps * geo.c + c) * taps + taps - 1 - tap % taps];
    let w = pack(geo.c, geo.o * taps, kernels.block, at);
    Some(forward_packed(kernels, &transposed, dy, &w))
}

/// Weight gradient `[O, C, kh, kw]`. Images are cut into groups by shape alone, each group is summed on its own, and the
/// partial sums are added in order.
pub(super) fn backward_weight(kernels: &Kernels, geo: &Geometry, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let plan = Plan::new(geo);
    let (depth, block) = (geo.depth(), kernels.block);
    let (blocks, groups) = (geo.o.div_ceil(block), depth.div_ceil(kernels.taps));
    let tile = block * kernels.taps;
    let size = blocks * groups * tile;
    let parts = (PARTIALS / size.max(1)).clamp(4, 16).min(geo.n.max(1));
    let bounds = |part: usize| part * geo.n / parts;
    let together = plan.together(geo.n.div_ceil(parts));
    let (pitch, dy_pitch) = (plan.grid.pitch(together, plan.reach()), plan.grid.pitch(together, 0));
    let mut offsets = plan.offsets(pitch);
    offsets.resize(groups * kernels.taps, 0);
    let gradients = Source { data: dy, planes: geo.o, h: geo.oh, w: geo.ow };
    let partial = |part: usize, out: &Output| {
        // SAFETY: one part of the partial sums for each unit.
        let target = unsafe { out.slice(part * size, size) };
        for value in target.iter_mut() {
            value.write(0.0);
        }
        let (copies, rows) = (plan.planes() * pitch + 16, blocks * block * dy_pitch + 16);
        parallel::scratch(copies, rows, |copies, rows| {
            let (copies, rows) = (aligned(copies), aligned(rows));
            rows[geo.o * dy_pitch..blocks * block * dy_pitch].fill(0.0);
            for first in (bounds(part)..bounds(part + 1)).step_by(together) {
                let images = together.min(bounds(part + 1) - first);
                plan.copy(x, (first, images), copies, pitch);
                pad(gradients, (first, images), plan.grid, (0, 0), rows, dy_pitch);
                let pixels = (images * plan.grid.size()).next_multiple_of(kernels.lanes);
                for start in (0..pixels).step_by(RUN) {
                    let steps = (pixels - start).min(RUN) / kernels.lanes;
                    for (i, sums) in target.chunks_exact_mut(tile).enumerate() {
                        let (rows, taps) = (&rows[i / groups * block * dy_pitch + start..], i % groups);
                        let taps = &offsets[taps * kernels.taps..][..kernels.taps];
                        let (x, sums) = (&copies[start..], sums.as_mut_ptr().cast());
                        // SAFETY: `pixels` elements can be read from every offset and every row (see `Grid::pitch`);
                        // `sums` was cleared above; `kernels` come from `simd::available`.
                        unsafe { (kernels.tap)(rows.as_ptr(), dy_pitch, x.as_ptr(), taps, steps, sums) };
                    }
                }
            }
        });
    };
    // SAFETY: every part clears its sums before it adds to them.
    let sums =
        unsafe { parallel::build(parts * size, |out| parallel::for_each(parts, |part| partial(part, out))) };
    let mut dw = vec![0.0; geo.o * depth];
    for (o, dw) in dw.chunks_exact_mut(depth).enumerate() {
        let (first, row) = (o / block * groups * tile, o % block);
        for sums in sums.chunks_exact(size) {
            for (tap, dw) in dw.iter_mut().enumerate() {
                *dw += sums[first + tap * block + row];
            }
        }
    }
    dw
}
