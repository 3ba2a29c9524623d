//! Tiles whose last columns do not exist, with taps.

use crate::kernels::simd::{PANEL, Panel, TILE_ROWS, Tap, Tile};

/// `tile` for `rows` rows and all `taps`, of whose columns only the first `used` exist in C.
///
/// # Safety
/// As [`Panel::run_taps`] for a C of `used` columns.
pub(super) unsafe fn run(
    kernel: Panel,
    (used, width): (usize, usize),
    rows: usize,
    tile: &Tile,
    taps: &[Tap],
) {
    if used == width {
        // SAFETY: the caller's promise.
        return unsafe { kernel.run_taps(rows, tile, taps) };
    }
    let mut part = [0f32; TILE_ROWS * PANEL];
    for first in (0..rows).step_by(TILE_ROWS) {
        let height = TILE_ROWS.min(rows - first);
        // SAFETY: A and B by the caller's promise; `part` holds a tile of the widest panel.
        unsafe {
            let a = tile.a.add(first * tile.a_row);
            let tile = Tile { a, c: part.as_mut_ptr(), c_row: width, add: false, ..*tile };
            kernel.run_taps(height, &tile, taps);
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
