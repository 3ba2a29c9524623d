//! Columns of a right operand, packed into panels that the tile reads straight through.

use crate::kernels::simd::{PANEL, Panel, TILE_ROWS, Tile, vectorized};

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
        copy_fixed::<PANEL>(src, pitch, first, dst);
    } else if used == width && width == LINE {
        copy_fixed::<LINE>(src, pitch, first, dst);
    } else {
        for (row, dst) in dst.chunks_exact_mut(width).enumerate().take(rows) {
            let start = row * pitch + first;
            dst[..used].copy_from_slice(&src[start..start + used]);
            dst[used..].fill(0.0);
        }
    }
}

fn copy_fixed<const WIDTH: usize>(src: &[f32], pitch: usize, first: usize, dst: &mut [f32]) {
    for (dst, src) in dst.chunks_exact_mut(WIDTH).zip(src[first..].chunks(pitch)) {
        dst.copy_from_slice(&src[..WIDTH]);
    }
}

vectorized! {
    /// Rows `0..used` of `src` (of `pitch` elements) as columns of `dst`: column `j` of `src` becomes row `place[j]` of
    /// `dst`, of `width` elements, zeros beyond `used`. No `place` leaves the order as it is.
    pub(crate) fn transpose(src: &[f32], pitch: usize, used: usize, width: usize, place: Option<&[usize]>, dst: &mut [f32]) {
        for half in (0..width).step_by(LINE) {
            let rows = used.saturating_sub(half).min(LINE);
            for first in (0..pitch).step_by(LINE) {
                let columns = LINE.min(pitch - first);
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
