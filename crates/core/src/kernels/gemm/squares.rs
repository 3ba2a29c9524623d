//! Transposition in squares that never leave the registers: 16 x 16 with AVX-512, 8 x 8 with AVX2.

use std::arch::x86_64::*;

use super::LINE;

/// As [`transpose_rows`](super::transpose_rows).
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(
    src: &[f32],
    (pitch, count): (usize, usize),
    (used, width): (usize, usize),
    place: Option<&[usize]>,
    dst: &mut [f32],
) {
    if used == 0 || count == 0 {
        return dst.fill(0.0);
    }
    assert!(src.len() >= (used - 1) * pitch + count, "transposition: source too short");
    for half in (0..width).step_by(LINE) {
        let rows = used.saturating_sub(half).min(LINE);
        for first in (0..count).step_by(LINE) {
            let columns = LINE.min(count - first);
            let mask = u16::MAX >> (LINE - columns);
            let mut square = [_mm512_setzero_ps(); LINE];
            for (row, line) in square.iter_mut().enumerate() {
                if row < rows {
                    // SAFETY: row `half + row` is below `used` and has `count` elements, as asserted; the mask leaves
                    // out what is beyond.
                    *line = unsafe {
                        _mm512_maskz_loadu_ps(mask, src.as_ptr().add((half + row) * pitch + first))
                    };
                }
            }
            let square = turn(square);
            for (j, line) in square.into_iter().enumerate() {
                if j < columns {
                    let row = place.map_or(first + j, |place| place[first + j]);
                    let dst = &mut dst[row * width + half..][..LINE];
                    // SAFETY: a slice of 16 elements.
                    unsafe { _mm512_storeu_ps(dst.as_mut_ptr(), line) };
                }
            }
        }
    }
}

/// Rows to columns: first within groups of four rows and four columns, then these groups.
#[target_feature(enable = "avx512f")]
#[inline]
fn turn(rows: [__m512; LINE]) -> [__m512; LINE] {
    let mut pairs = rows;
    for i in (0..LINE).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // Quarter `q` of `fours[4 * i + c]` is column `4 * q + c` of rows `4 * i..4 * i + 4`.
    let mut fours = pairs;
    for i in (0..LINE).step_by(4) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|j| _mm512_castps_pd(pairs[i + j]));
        fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    let mut columns = fours;
    for c in 0..4 {
        // Quarters 0 and 2, and 1 and 3, of the upper and of the lower eight rows.
        let [even, odd] = upper_and_lower(fours[c], fours[4 + c]);
        let [even_below, odd_below] = upper_and_lower(fours[8 + c], fours[12 + c]);
        [columns[c], columns[8 + c]] = upper_and_lower(even, even_below);
        [columns[4 + c], columns[12 + c]] = upper_and_lower(odd, odd_below);
    }
    columns
}

/// Quarters 0 and 2 of both, and quarters 1 and 3 of both.
#[target_feature(enable = "avx512f")]
#[inline]
fn upper_and_lower(a: __m512, b: __m512) -> [__m512; 2] {
    [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b)]
}

/// Side of a square with AVX2.
const EIGHT: usize = 8;

/// Columns whose squares come one after another: the rows that they become stay in the cache until all eights of rows
/// are in them, and of the eight rows that are read (which push each other out where they lie a power of two apart) a
/// line is used up before it goes.
const BLOCK: usize = 128;

/// As [`transpose_rows`](super::transpose_rows).
#[target_feature(enable = "avx2")]
pub(super) fn transpose_eights(
    src: &[f32],
    (pitch, count): (usize, usize),
    (used, width): (usize, usize),
    place: Option<&[usize]>,
    dst: &mut [f32],
) {
    if used == 0 || count == 0 {
        return dst.fill(0.0);
    }
    assert!(src.len() >= (used - 1) * pitch + count, "transposition: source too short");
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for block in (0..count).step_by(BLOCK) {
        for top in (0..width).step_by(EIGHT) {
            let rows = used.saturating_sub(top).min(EIGHT);
            for first in (block..count.min(block + BLOCK)).step_by(EIGHT) {
                let columns = EIGHT.min(count - first);
                let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(columns as i32), lanes);
                let mut square = [_mm256_setzero_ps(); EIGHT];
                for (row, line) in square.iter_mut().enumerate() {
                    if row < rows {
                        // SAFETY: row `top + row` is below `used` and has `count` elements, as asserted; the mask leaves
                        // out what is beyond.
                        *line = unsafe {
                            _mm256_maskload_ps(src.as_ptr().add((top + row) * pitch + first), mask)
                        };
                    }
                }
                for (j, line) in turn_eight(square).into_iter().enumerate() {
                    if j < columns {
                        let row = place.map_or(first + j, |place| place[first + j]);
                        let dst = &mut dst[row * width + top..][..EIGHT];
                        // SAFETY: a slice of 8 elements.
                        unsafe { _mm256_storeu_ps(dst.as_mut_ptr(), line) };
                    }
                }
            }
        }
    }
}

/// As [`turn`], where a register has two groups of four columns.
#[target_feature(enable = "avx2")]
#[inline]
fn turn_eight(rows: [__m256; EIGHT]) -> [__m256; EIGHT] {
    let mut pairs = rows;
    for i in (0..EIGHT).step_by(2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // Half `h` of `fours[4 * i + c]` is column `4 * h + c` of rows `4 * i..4 * i + 4`.
    let mut fours = pairs;
    for i in (0..EIGHT).step_by(4) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|j| _mm256_castps_pd(pairs[i + j]));
        fours[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
        fours[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
        fours[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
        fours[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
    }
    let mut columns = fours;
    for c in 0..4 {
        columns[c] = _mm256_permute2f128_ps::<0x20>(fours[c], fours[4 + c]);
        columns[4 + c] = _mm256_permute2f128_ps::<0x31>(fours[c], fours[4 + c]);
    }
    columns
}
