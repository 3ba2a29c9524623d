//! The product kernel for bf16: as [`simd::Tile`](crate::kernels::simd::Tile), over pairs of steps of the depth.
//!
//! A pair is two bf16 numbers in one word, the step before in its low half. A is read by broadcast of words, B by
//! vectors of words of consecutive columns.

use std::arch::x86_64::*;

use crate::kernels::gemm::LINE;
use crate::kernels::simd::TILE_ROWS;

/// One product `C[rows, columns] = A[rows, depth] B[depth, columns] (+ D[rows, columns])`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    /// First pair of A; pair `p` of row `r` lies at `r * a_row + p * a_step`.
    pub a: *const u32,
    pub a_row: usize,
    pub a_step: usize,
    /// First pair of B, whose rows lie one after the other, as wide as `columns` rounded up to whole vectors.
    pub b: *const u32,
    /// Pairs of the depth.
    pub pairs: usize,
    /// First element of C; row `r` lies at `r * c_row`.
    pub c: *mut f32,
    pub c_row: usize,
    /// First element of what is added, or null; row `r` lies at `r * d_row`.
    pub d: *const f32,
    pub d_row: usize,
    /// Columns of C and D, at most [`PANEL`](crate::kernels::simd::PANEL).
    pub columns: usize,
    /// What is soon needed, and how much of it is asked for with every pair.
    pub next: *const f32,
    pub next_step: usize,
}

type TileFn = unsafe fn(&Tile);

macro_rules! by_rows {
    ($vectors:expr; $($rows:expr),*) => { [$(tile::<$rows, $vectors>),*] };
}

static WIDE: [TileFn; TILE_ROWS] = by_rows!(2; 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
static NARROW: [TileFn; TILE_ROWS] = by_rows!(1; 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);

impl Tile {
    /// The product of any number of rows, cut into even tiles.
    ///
    /// # Safety
    /// The machine has AVX512-BF16. All elements that the extents of the tile and `rows` name are readable (C:
    /// writable, and touched by nobody else during the call).
    #[inline]
    pub(super) unsafe fn run(mut self, rows: usize) {
        let by_rows = if self.columns > LINE { &WIDE } else { &NARROW };
        let tiles = rows.div_ceil(TILE_ROWS);
        for i in 0..tiles {
            let height = rows / tiles + usize::from(i < rows % tiles);
            // SAFETY: the caller's promise, for a part of the rows. `height` is in 1..=TILE_ROWS.
            unsafe { by_rows[height - 1](&self) };
            self.next = self.next.wrapping_add(self.pairs * self.next_step);
            self.a = self.a.wrapping_add(height * self.a_row);
            self.c = self.c.wrapping_add(height * self.c_row);
            self.d = self.d.wrapping_add(if self.d.is_null() { 0 } else { height * self.d_row });
        }
    }
}

/// A piece of memory that is needed soon, asked for line by line while something else is multiplied.
#[derive(Debug)]
pub(super) struct Next {
    start: *const f32,
    lines: usize,
}

impl Next {
    /// `count` elements (of four bytes) from `start` on, as far as `values` reaches.
    pub(super) fn new<T>(values: &[T], start: usize, count: usize) -> Self {
        let count = count.min(values.len().saturating_sub(start));
        Self { start: values.as_ptr().wrapping_add(start).cast(), lines: count.div_ceil(LINE) }
    }

    /// Whether there is nothing left to ask for.
    pub(super) fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Where to begin and how far to step in a product of `rows` over `pairs`.
    pub(super) fn take(&mut self, rows: usize, pairs: usize) -> (*const f32, usize) {
        let (start, taken) = (self.start, (rows.div_ceil(TILE_ROWS) * pairs).min(self.lines));
        self.start = start.wrapping_add(taken * LINE);
        self.lines -= taken;
        (start, if taken > 0 { LINE } else { 0 })
    }
}

/// `ROWS` rows of `16 * VECTORS` columns: at most 24 sums in 32 registers. Never inlined: inside a larger loop the sums
/// would spill.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bf16")]
// Counted loops over fixed arrays are what the compiler turns into registers.
#[allow(clippy::needless_range_loop)]
unsafe fn tile<const ROWS: usize, const VECTORS: usize>(t: &Tile) {
    // SAFETY: by the promise of the tile's caller. Masks keep to the columns that exist.
    unsafe {
        // C arrives from memory while the sums are made.
        for r in 0..ROWS {
            for v in 0..VECTORS {
                _mm_prefetch::<_MM_HINT_ET0>(t.c.wrapping_add(r * t.c_row + v * LINE).cast());
            }
        }
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        let (mut a, mut b, mut next) = (t.a, t.b, t.next);
        for _ in 0..t.pairs {
            _mm_prefetch::<_MM_HINT_T1>(next.cast());
            next = next.wrapping_add(t.next_step);
            let mut columns = [_mm512_setzero_si512(); VECTORS];
            for v in 0..VECTORS {
                columns[v] = _mm512_loadu_si512(b.add(v * LINE).cast());
            }
            for r in 0..ROWS {
                let value = bf16(_mm512_set1_epi32((*a.add(r * t.a_row)).cast_signed()));
                for v in 0..VECTORS {
                    sums[r][v] = _mm512_dpbf16_ps(sums[r][v], value, bf16(columns[v]));
                }
            }
            a = a.wrapping_add(t.a_step);
            b = b.wrapping_add(VECTORS * LINE);
        }
        let last = __mmask16::MAX >> (VECTORS * LINE - t.columns);
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let (c, mut sum) = (t.c.add(r * t.c_row + v * LINE), sums[r][v]);
                // A masked store costs more than a plain one.
                if v + 1 < VECTORS || last == __mmask16::MAX {
                    if !t.d.is_null() {
                        sum = _mm512_add_ps(_mm512_loadu_ps(t.d.add(r * t.d_row + v * LINE)), sum);
                    }
                    _mm512_storeu_ps(c, sum);
                } else {
                    if !t.d.is_null() {
                        sum =
                            _mm512_add_ps(_mm512_maskz_loadu_ps(last, t.d.add(r * t.d_row + v * LINE)), sum);
                    }
                    _mm512_mask_storeu_ps(c, last, sum);
                }
            }
        }
    }
}

/// The same bits, as pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of any content.
    unsafe { std::mem::transmute(words) }
}
