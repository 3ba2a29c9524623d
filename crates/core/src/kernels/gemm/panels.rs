//! Columns of a right operand, packed into panels that the tile reads straight through.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::squares;
#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::level;
use crate::kernels::simd::{Level, PANEL, Panel, TILE_ROWS, Tile, vectorized};

/// Half a panel, and the floats of a cache line.
pub(crate) const LINE: usize = 16;

/// Columns in panels of [`PANEL`], where the last one is half as wide if that holds the rest. What a panel has more
/// than there are columns is zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns(pub usize);

impl Columns {
    pub(crate) fn panels(self) -> usize {
        self.0.div_ceil(PANEL)
    }

    /// Columns of all panels together.
    pub(crate) fn padded(self) -> usize {
        self.0.next_multiple_of(LINE)
    }

    /// Columns of `panel` that exist.
    pub(crate) fn used(self, panel: usize) -> usize {
        (self.0 - panel * PANEL).min(PANEL)
    }

    /// Columns of `panel`.
    pub(crate) fn width(self, panel: usize) -> usize {
        self.used(panel).next_multiple_of(LINE)
    }

    /// The panels of `range`, two at a time where both are full.
    pub(crate) fn strips(self, range: Range<usize>) -> impl Iterator<Item = Strip> {
        let mut next = range.start;
        std::iter::from_fn(move || {
            let panel = next;
            let pair = panel + 1 < range.end && self.used(panel + 1) == PANEL;
            next += 1 + usize::from(pair);
            (panel < range.end).then(|| match pair {
                true => Strip { panel, used: 2 * PANEL, width: 2 * PANEL, step: PANEL },
                false => {
                    let width = self.width(panel);
                    Strip { panel, used: self.used(panel), width, step: width }
                }
            })
        })
    }
}

/// One panel, or two full ones that a product takes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strip {
    /// The first panel.
    pub panel: usize,
    /// Columns that exist.
    pub used: usize,
    /// Columns, of which those beyond `used` are zero.
    pub width: usize,
    /// Columns of each panel.
    pub step: usize,
}

impl Strip {
    /// The kernels for this strip, whose panels lie `distance` apart.
    pub(crate) fn kernels(&self, level: Level, distance: usize) -> Panel {
        if self.width > PANEL { Panel::pair(level, distance) } else { Panel::new(level, self.width) }
    }
}

/// `tile` for `rows` rows, of whose columns only the first `used` exist in C.
///
/// # Safety
/// As [`Panel::run`] for a C of `used` columns.
pub(crate) unsafe fn run(kernel: Panel, (used, width): (usize, usize), rows: usize, tile: &Tile) {
    if used == width {
        // SAFETY: the caller's promise.
        return unsafe { kernel.run(rows, tile) };
    }
    // What is added to has its bias.
    let kernel = if tile.add { kernel.with_bias(std::ptr::null()) } else { kernel };
    let mut part = [0f32; TILE_ROWS * PANEL];
    for first in (0..rows).step_by(TILE_ROWS) {
        let height = TILE_ROWS.min(rows - first);
        // SAFETY: A and B by the caller's promise; `part` holds a tile of the widest panel.
        unsafe {
            let a = tile.a.add(first * tile.a_row);
            kernel.run(height, &Tile { a, c: part.as_mut_ptr(), c_row: width, add: false, ..*tile });
        }
        for (row, part) in part.chunks_exact(width).take(height).enumerate() {
            // SAFETY: the caller's promise.
            let c = unsafe { std::slice::from_raw_parts_mut(tile.c.add((first + row) * tile.c_row), used) };
            if tile.add {
                c.iter_mut().zip(part).for_each(|(c, part)| *c += part);
            } else {
                c.copy_from_slice(&part[..used]);
            }
        }
    }
}

/// Columns `first..` of the rows of `src`, `width` of them (zeros beyond `used`), side by side in `dst`.
pub(crate) fn copy_columns(
    src: &[f32],
    pitch: usize,
    first: usize,
    (used, width): (usize, usize),
    dst: &mut [f32],
) {
    let rows = dst.len() / width;
    if used == width && width == PANEL {
        copy_panel(&src[first..], pitch, dst);
    } else if used == width && width == LINE {
        copy_line(&src[first..], pitch, dst);
    } else {
        for (row, dst) in dst.chunks_exact_mut(width).enumerate().take(rows) {
            let start = row * pitch + first;
            dst[..used].copy_from_slice(&src[start..start + used]);
            dst[used..].fill(0.0);
        }
    }
}

vectorized! {
    fn copy_panel(src: &[f32], pitch: usize, dst: &mut [f32]) {
        copy_fixed::<PANEL>(src, pitch, dst);
    }

    fn copy_line(src: &[f32], pitch: usize, dst: &mut [f32]) {
        copy_fixed::<LINE>(src, pitch, dst);
    }
}

#[inline(always)]
fn copy_fixed<const WIDTH: usize>(src: &[f32], pitch: usize, dst: &mut [f32]) {
    for (dst, src) in dst.as_chunks_mut::<WIDTH>().0.iter_mut().zip(src.chunks(pitch)) {
        if let Some(src) = src.first_chunk() {
            *dst = *src;
        }
    }
}

/// Rows `0..used` of `src` (of `pitch` elements) as columns of `dst`: column `j` of `src` becomes row `place[j]` of
/// `dst`, of `width` elements, zeros beyond `used`. No `place` leaves the order as it is.
pub(crate) fn transpose(
    src: &[f32],
    pitch: usize,
    used: usize,
    width: usize,
    place: Option<&[usize]>,
    dst: &mut [f32],
) {
    transpose_rows(src, (pitch, pitch), (used, width), place, dst);
}

/// As [`transpose`], for the first `count` of `pitch` elements of every row.
pub(crate) fn transpose_rows(
    src: &[f32],
    (pitch, count): (usize, usize),
    (used, width): (usize, usize),
    place: Option<&[usize]>,
    dst: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a level is only given by a machine that has its instructions.
    match level() {
        Level::Avx512 => {
            return unsafe { squares::transpose(src, (pitch, count), (used, width), place, dst) };
        }
        Level::Avx2 => {
            return unsafe { squares::transpose_eights(src, (pitch, count), (used, width), place, dst) };
        }
        Level::Portable => {}
    }
    transpose_plain(src, (pitch, count), (used, width), place, dst);
}

vectorized! {
    fn transpose_plain(
        src: &[f32],
        row: (usize, usize),
        columns: (usize, usize),
        place: Option<&[usize]>,
        dst: &mut [f32],
    ) {
        let ((pitch, count), (used, width)) = (row, columns);
        for half in (0..width).step_by(LINE) {
            let rows = used.saturating_sub(half).min(LINE);
            for first in (0..count).step_by(LINE) {
                let columns = LINE.min(count - first);
                // A square in registers: rows a power of two apart would push each other out of the cache.
                let mut block = [[0f32; LINE]; LINE];
                for (row, block) in block.iter_mut().enumerate().take(rows) {
                    let start = (half + row) * pitch + first;
                    if columns == LINE {
                        block.copy_from_slice(&src[start..start + LINE]);
                    } else {
                        block[..columns].copy_from_slice(&src[start..start + columns]);
                    }
                }
                for _ in 0..4 {
                    block = shuffle(&block);
                }
                for (j, line) in block.iter().enumerate().take(columns) {
                    let row = place.map_or(first + j, |place| place[first + j]);
                    dst[row * width + half..][..LINE].copy_from_slice(line);
                }
            }
        }
    }
}

/// Rows `i` and `i + 8` interleaved; four times over, this transposes.
#[inline(always)]
fn shuffle(block: &[[f32; LINE]; LINE]) -> [[f32; LINE]; LINE] {
    let mut out = [[0f32; LINE]; LINE];
    for i in 0..LINE / 2 {
        for j in 0..LINE / 2 {
            out[2 * i][2 * j] = block[i][j];
            out[2 * i][2 * j + 1] = block[i + 8][j];
            out[2 * i + 1][2 * j] = block[i][j + 8];
            out[2 * i + 1][2 * j + 1] = block[i + 8][j + 8];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::gemm::tests::noise;

    #[test]
    fn transpositions_agree_with_the_definition() {
        for (pitch, count, used, width) in
            [(1, 1, 1, 16), (40, 33, 5, 16), (64, 64, 32, 32), (90, 17, 19, 32), (300, 270, 29, 32)]
        {
            let src = noise((used - 1) * pitch + count, 1);
            let backwards: Vec<usize> = (0..count).rev().collect();
            for place in [None, Some(&backwards[..])] {
                let mut want = vec![0f32; count * width];
                for (row, column) in (0..used).flat_map(|row| (0..count).map(move |column| (row, column))) {
                    let to = place.map_or(column, |place| place[column]);
                    want[to * width + row] = src[row * pitch + column];
                }
                let mut got = vec![[f32::NAN; 2]; count * width].concat();
                let (best, plain) = got.split_at_mut(count * width);
                transpose_rows(&src, (pitch, count), (used, width), place, best);
                transpose_plain(&src, (pitch, count), (used, width), place, plain);
                assert!(best == want && plain == want, "{pitch} {count} {used} {width}");
            }
        }
    }
}
