//! Transposition with AVX-512: squares of 16 x 16 that never leave the registers.

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
