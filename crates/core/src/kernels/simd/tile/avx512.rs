//! Tiles of AVX-512: at most 24 sums in 32 registers.

// Counted loops over fixed arrays are what the compiler turns into registers.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use super::{PAIR_ROWS, Panel, TILE_ROWS, Tap, Tile, TileFn};

pub(super) static PAIR: [TileFn; PAIR_ROWS] =
    [tile::<1, 4>, tile::<2, 4>, tile::<3, 4>, tile::<4, 4>, tile::<5, 4>, tile::<6, 4>];
pub(super) static WIDE: [TileFn; TILE_ROWS] = by_rows!(tile, 2);
pub(super) static NARROW: [TileFn; TILE_ROWS] = by_rows!(tile, 1);

/// `ROWS` rows of `16 * VECTORS` columns, four vectors being those of two panels. Never inlined: inside a larger loop
/// the sums would spill, and so they would if several steps of the depth were written out.
#[inline(never)]
#[target_feature(enable = "avx512f")]
unsafe fn tile<const ROWS: usize, const VECTORS: usize>(t: &Tile, taps: &[Tap], panel: &Panel) {
    // SAFETY: by the promise of the tile's caller; prefetching may go anywhere.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for r in 0..ROWS {
            for v in 0..VECTORS {
                _mm_prefetch::<_MM_HINT_T0>(t.c.wrapping_add(r * t.c_row + v * 16).cast_const().cast());
            }
        }
        let second = panel.second;
        for tap in taps {
            let (mut a, mut b) = (t.a.add(tap.a), t.b.add(tap.b));
            // The rows of the next tile, if A lies by rows: the hardware does not see them coming. Sixteen steps take
            // a line of each.
            let ahead = if t.a_step == 1 { a.wrapping_add(ROWS * t.a_row) } else { a };
            for k in 0..t.depth {
                if ROWS > 8 || k % 2 == 0 {
                    let row = if ROWS > 8 { k % 16 } else { k % 16 / 2 };
                    let line = ahead.wrapping_add(row * t.a_row + (k & !15) * t.a_step);
                    _mm_prefetch::<_MM_HINT_T1>(line.cast());
                }
                let mut columns = [_mm512_setzero_ps(); VECTORS];
                for v in 0..VECTORS {
                    columns[v] = _mm512_loadu_ps(b.wrapping_add(v % 2 * 16 + v / 2 * second));
                }
                for r in 0..ROWS {
                    let value = _mm512_set1_ps(*a.add(r * t.a_row));
                    for v in 0..VECTORS {
                        sums[r][v] = _mm512_fmadd_ps(value, columns[v], sums[r][v]);
                    }
                }
                a = a.wrapping_add(t.a_step);
                b = b.wrapping_add(t.b_step);
            }
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let c = t.c.add(r * t.c_row + v * 16);
                let start = if t.add { c.cast_const() } else { panel.bias_at(v * 16) };
                let sum = if start.is_null() {
                    sums[r][v]
                } else {
                    _mm512_add_ps(_mm512_loadu_ps(start), sums[r][v])
                };
                _mm512_storeu_ps(c, sum);
            }
        }
    }
}
