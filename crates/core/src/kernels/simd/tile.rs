//! The product kernel: a few rows of A times a panel of B, kept in registers over the whole depth.
//!
//! A is read by broadcast wherever it lies (any distance between rows and between steps of the depth, so that it may
//! be stored transposed), B by vectors of consecutive columns, C is written or added to at the end. Operands are never
//! copied here; callers pack B into panels of [`PANEL`] columns so that it is read straight through.

use super::Level;

/// Columns of a full panel.
pub(crate) const PANEL: usize = 32;
/// Most rows of one tile.
pub(crate) const TILE_ROWS: usize = 12;
/// Most rows of one tile over two panels.
const PAIR_ROWS: usize = TILE_ROWS / 2;

/// One product `C[rows, columns] (+)= A[rows, depth] B[depth, columns]` with `columns` 16, 32, or 64
/// over two panels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile {
    /// First element of A; element `(r, k)` lies at `r * a_row + k * a_step`.
    pub a: *const f32,
    pub a_row: usize,
    pub a_step: usize,
    /// First element of B; row `k` lies at `k * b_step`, its columns side by side.
    pub b: *const f32,
    pub b_step: usize,
    /// First element of C; row `r` lies at `r * c_row`.
    pub c: *mut f32,
    pub c_row: usize,
    pub depth: usize,
    /// Whether the product is added to what C holds.
    pub add: bool,
}

/// A part of the depth that lies elsewhere: [`Tile::depth`] steps from these offsets to A and B on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tap {
    pub a: usize,
    pub b: usize,
}

/// The one part of a depth that lies in one piece.
const WHOLE: [Tap; 1] = [Tap { a: 0, b: 0 }];

type TileFn = unsafe fn(&Tile, &[Tap], &Panel);

/// The kernels of one level for panels of one width, and what a product has besides its tiles.
#[derive(Clone, Copy)]
pub(crate) struct Panel {
    by_rows: &'static [TileFn],
    /// For two panels side by side: from one to the other in B. Otherwise 0.
    second: usize,
    /// Whether the kernels take both panels at once.
    joined: bool,
    /// One value for every column, added where the product is not; null for none.
    bias: *const f32,
}

impl Panel {
    /// Kernels for `columns` (16 or 32) at `level`.
    pub(crate) fn new(level: Level, columns: usize) -> Self {
        debug_assert!(columns == 16 || columns == 32);
        let wide = columns == PANEL;
        let by_rows: &[TileFn] = match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if wide => &avx512::WIDE,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => &avx512::NARROW,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 if wide => &avx2::WIDE,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => &avx2::NARROW,
            Level::Portable if wide => &portable::WIDE,
            Level::Portable => &portable::NARROW,
        };
        Self { by_rows, second: 0, joined: false, bias: std::ptr::null() }
    }

    /// Kernels for two panels of [`PANEL`] columns side by side in C, the second `second` elements behind the first in
    /// B. Every value of A that is loaded serves twice as many columns, which is what AVX-512 needs to reach its peak.
    pub(crate) fn pair(level: Level, second: usize) -> Self {
        let one = Self { second, ..Self::new(level, PANEL) };
        #[cfg(target_arch = "x86_64")]
        if level == Level::Avx512 {
            return Self { by_rows: &avx512::PAIR, joined: true, ..one };
        }
        one
    }

    /// With a value for every column to start from, where the product is not added to what C holds.
    ///
    /// The values must be readable as long as the kernels are used.
    pub(crate) fn with_bias(self, bias: *const f32) -> Self {
        Self { bias, ..self }
    }

    /// The bias of `column` and those behind it, or null.
    fn bias_at(&self, column: usize) -> *const f32 {
        if self.bias.is_null() { self.bias } else { self.bias.wrapping_add(column) }
    }

    /// The product of any number of rows: `tile` with more rows, cut into even tiles.
    ///
    /// # Safety
    /// All elements of A, B and C that the extents of `tile` and `rows` name are readable (C: writable, and touched by
    /// nobody else during the call).
    #[inline]
    pub(crate) unsafe fn run(&self, rows: usize, tile: &Tile) {
        // SAFETY: the caller's promise.
        unsafe { self.run_taps(rows, tile, &WHOLE) }
    }

    /// As [`Panel::run`], with the sum of the products of all `taps` kept in registers until C is written.
    ///
    /// # Safety
    /// As [`Panel::run`], for A and B moved by the offsets of every tap.
    #[inline]
    pub(crate) unsafe fn run_taps(&self, rows: usize, tile: &Tile, taps: &[Tap]) {
        if rows == 0 {
            return;
        }
        if self.second > 0 && !self.joined {
            let one = Self { second: 0, ..*self };
            let bias = self.bias_at(PANEL);
            // SAFETY: the caller's promise, for a half of the columns.
            unsafe {
                one.run_taps(rows, tile, taps);
                let tile = Tile { b: tile.b.add(self.second), c: tile.c.add(PANEL), ..*tile };
                one.with_bias(bias).run_taps(rows, &tile, taps);
            }
            return;
        }
        let tiles = rows.div_ceil(self.by_rows.len());
        let (each, more) = (rows / tiles, rows % tiles);
        let mut tile = *tile;
        for i in 0..tiles {
            let height = each + usize::from(i < more);
            // SAFETY: the caller's promise, for a part of the rows. `height` is in 1..=by_rows.len().
            unsafe {
                (self.by_rows[height - 1])(&tile, taps, self);
                tile.a = tile.a.add(height * tile.a_row);
                tile.c = tile.c.add(height * tile.c_row);
            }
        }
    }
}

macro_rules! by_rows {
    ($f:ident, $width:expr) => {
        [
            $f::<1, $width>,
            $f::<2, $width>,
            $f::<3, $width>,
            $f::<4, $width>,
            $f::<5, $width>,
            $f::<6, $width>,
            $f::<7, $width>,
            $f::<8, $width>,
            $f::<9, $width>,
            $f::<10, $width>,
            $f::<11, $width>,
            $f::<12, $width>,
        ]
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512;

mod portable {
    use super::{Panel, TILE_ROWS, Tap, Tile, TileFn};

    pub(super) static WIDE: [TileFn; TILE_ROWS] = by_rows!(tile, 2);
    pub(super) static NARROW: [TileFn; TILE_ROWS] = by_rows!(tile, 1);

    /// `ROWS` rows of `16 * VECTORS` columns, four rows of eight columns at a time: what 16 registers of four lanes hold.
    unsafe fn tile<const ROWS: usize, const VECTORS: usize>(t: &Tile, taps: &[Tap], panel: &Panel) {
        let mut row = 0;
        while row < ROWS {
            for column in (0..VECTORS * 16).step_by(8) {
                // SAFETY: a part of the rows and columns that the caller of the tile promises.
                unsafe {
                    let part = Tile {
                        a: t.a.add(row * t.a_row),
                        b: t.b.add(column),
                        c: t.c.add(row * t.c_row + column),
                        ..*t
                    };
                    let bias = panel.bias_at(column);
                    match ROWS - row {
                        1 => block::<1>(&part, taps, bias),
                        2 => block::<2>(&part, taps, bias),
                        3 => block::<3>(&part, taps, bias),
                        _ => block::<4>(&part, taps, bias),
                    }
                }
            }
            row += 4;
        }
    }

    unsafe fn block<const ROWS: usize>(t: &Tile, taps: &[Tap], bias: *const f32) {
        let mut sums = [[0f32; 8]; ROWS];
        for tap in taps {
            for k in 0..t.depth {
                // SAFETY: by the promise of the tile's caller.
                let b = unsafe { t.b.add(tap.b + k * t.b_step).cast::<[f32; 8]>().read_unaligned() };
                for (r, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: as above.
                    let a = unsafe { *t.a.add(tap.a + r * t.a_row + k * t.a_step) };
                    for (sum, b) in sum.iter_mut().zip(b) {
                        *sum += a * b;
                    }
                }
            }
        }
        for (r, mut sum) in sums.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let c = t.c.add(r * t.c_row).cast::<[f32; 8]>();
                let start = if t.add { c.cast_const() } else { bias.cast() };
                if !start.is_null() {
                    for (sum, start) in sum.iter_mut().zip(start.read_unaligned()) {
                        *sum += start;
                    }
                }
                c.write_unaligned(sum);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
// Counted loops over fixed arrays are what the compiler turns into registers.
#[allow(clippy::needless_range_loop)]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Panel, TILE_ROWS, Tap, Tile, TileFn};

    pub(super) static WIDE: [TileFn; TILE_ROWS] = by_rows!(tile, 2);
    pub(super) static NARROW: [TileFn; TILE_ROWS] = by_rows!(tile, 1);

    /// `ROWS` rows of `16 * VECTORS` columns, six rows of 16 columns at a time: 12 sums in 16 registers.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const ROWS: usize, const VECTORS: usize>(t: &Tile, taps: &[Tap], panel: &Panel) {
        let mut row = 0;
        while row < ROWS {
            for column in (0..VECTORS * 16).step_by(16) {
                // SAFETY: a part of the rows and columns that the caller of the tile promises.
                unsafe {
                    let part = Tile {
                        a: t.a.add(row * t.a_row),
                        b: t.b.add(column),
                        c: t.c.add(row * t.c_row + column),
                        ..*t
                    };
                    let bias = panel.bias_at(column);
                    match ROWS - row {
                        1 => block::<1>(&part, taps, bias),
                        2 => block::<2>(&part, taps, bias),
                        3 => block::<3>(&part, taps, bias),
                        4 => block::<4>(&part, taps, bias),
                        5 => block::<5>(&part, taps, bias),
                        _ => block::<6>(&part, taps, bias),
                    }
                }
            }
            row += 6;
        }
    }

    #[inline(never)]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn block<const ROWS: usize>(t: &Tile, taps: &[Tap], bias: *const f32) {
        // SAFETY: by the promise of the tile's caller.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            for tap in taps {
                let (mut a, mut b) = (t.a.add(tap.a), t.b.add(tap.b));
                // `$count` steps of the depth, `$a_step` apart in A.
                macro_rules! steps {
                    ($count:expr, $a_step:expr) => {
                        for k in 0..$count {
                            let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                            for r in 0..ROWS {
                                let value = _mm256_broadcast_ss(&*a.add(r * t.a_row + k * $a_step));
                                for v in 0..2 {
                                    sums[r][v] = _mm256_fmadd_ps(value, columns[v], sums[r][v]);
                                }
                            }
                            b = b.wrapping_add(t.b_step);
                        }
                        a = a.wrapping_add($count * $a_step);
                    };
                }
                // Four steps in one turn, their distances constant where they lie side by side: about a tenth faster.
                macro_rules! depth {
                    ($a_step:expr) => {
                        for _ in 0..t.depth / 4 {
                            steps!(4, $a_step);
                        }
                        for _ in 0..t.depth % 4 {
                            steps!(1, $a_step);
                        }
                    };
                }
                if t.a_step == 1 {
                    depth!(1);
                } else {
                    depth!(t.a_step);
                }
            }
            for r in 0..ROWS {
                for v in 0..2 {
                    let c = t.c.add(r * t.c_row + v * 8);
                    let start = if t.add || bias.is_null() { c.cast_const() } else { bias.add(v * 8) };
                    let sum = if t.add || !bias.is_null() {
                        _mm256_add_ps(_mm256_loadu_ps(start), sums[r][v])
                    } else {
                        sums[r][v]
                    };
                    _mm256_storeu_ps(c, sum);
                }
            }
        }
    }
}
