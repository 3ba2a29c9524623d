//! Operands as bf16: pairs of steps of the depth in one word, the step before in the low half, zeros where the depth or
//! the columns end; the depth is filled up to whole vectors.
//!
//! Operands of two parts hold, for every 16 pairs, first the numbers as bf16 and then what that cuts off of them.
//!
//! Everything here needs AVX512-BF16, which the callers make sure of.

use std::arch::x86_64::*;

use crate::kernels::gemm::LINE;

/// Rows that are asked for in advance: processors do not foresee where the next row of a part of a matrix begins.
const AHEAD: usize = 4;

/// Elements of a row that are asked for in advance where many rows are read side by side.
const SOON: usize = 4 * LINE;

/// `values` as words, for buffers that hold pairs.
pub(crate) fn words(values: &[f32]) -> &[u32] {
    // SAFETY: same size and alignment, and any bits are a value of both types.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

/// As [`words`], to be written.
pub(crate) fn words_mut(values: &mut [f32]) -> &mut [u32] {
    // SAFETY: as above, and exclusive through `values`.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

/// Rows of `depth` elements, `pitch` apart, as rows of pairs, `to_pitch` apart; these are filled up to whole vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn rows<const PARTS: usize>(
    src: &[f32],
    pitch: usize,
    depth: usize,
    to: &mut [u32],
    to_pitch: usize,
) {
    for (src, to) in src.chunks(pitch).zip(to.chunks_mut(to_pitch)) {
        for (src, to) in src[..depth].chunks(2 * LINE).zip(to.chunks_exact_mut(PARTS * LINE)) {
            for (part, to) in pairs::<PARTS>(src).into_iter().zip(to.as_chunks_mut::<LINE>().0) {
                store(part, to);
            }
        }
    }
}

/// Rows `0..used` of `src`, `pitch` apart, of which `depth` elements are taken, as columns of a panel of `width`: row
/// `p` of `to` gets pair `p` of each.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn transposed<const PARTS: usize>(
    src: &[f32],
    pitch: usize,
    depth: usize,
    (used, width): (usize, usize),
    to: &mut [u32],
) {
    for half in (0..width).step_by(LINE) {
        let rows = used.saturating_sub(half).min(LINE);
        for first in (0..depth).step_by(2 * LINE) {
            let steps = (depth - first).min(2 * LINE);
            let mut blocks = [[_mm512_setzero_si512(); LINE]; PARTS];
            for row in 0..rows {
                let start = (half + row) * pitch + first;
                ahead(src, start + SOON);
                ahead(src, start + SOON + LINE);
                for (block, part) in blocks.iter_mut().zip(pairs::<PARTS>(&src[start..][..steps])) {
                    block[row] = part;
                }
            }
            for (part, block) in blocks.iter_mut().enumerate() {
                transpose(block);
                for (j, line) in block.iter().enumerate() {
                    store(*line, &mut to[(first / 2 * PARTS + part * LINE + j) * width + half..]);
                }
            }
        }
    }
}

/// Columns `0..used` of rows `0..depth`, as rows of 16 pairs: of 16 columns one after the other, a line. Lines and groups
/// of 16 pairs begin at the distances `apart`. `row` gives the columns of a row, or nothing for zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn turned<'a, const PARTS: usize>(
    row: impl Fn(usize) -> &'a [f32],
    depth: usize,
    used: usize,
    to: &mut [u32],
    apart: (usize, usize),
) {
    for (group, first) in (0..depth).step_by(2 * LINE).enumerate() {
        let mut rows: [&[f32]; 2 * LINE] = [&[]; 2 * LINE];
        for (step, rows) in (first..depth).zip(&mut rows) {
            *rows = row(step);
        }
        for (line, at) in (0..used).step_by(LINE).enumerate() {
            let mut blocks = [[_mm512_setzero_si512(); LINE]; PARTS];
            for (pair, [low, high]) in rows.as_chunks().0.iter().enumerate() {
                for (block, part) in blocks.iter_mut().zip(mixed::<PARTS>(load(low, at), load(high, at))) {
                    block[pair] = part;
                }
            }
            let to = &mut to[line * apart.0 + group * apart.1..][..PARTS * LINE * LINE];
            for (block, to) in blocks.iter_mut().zip(to.chunks_mut(LINE * LINE)) {
                transpose(block);
                for (row, to) in block.iter().zip(to.chunks_mut(LINE)) {
                    store(*row, to);
                }
            }
        }
    }
}

/// Two rows of whole vectors as a row of pairs; an empty one stands for zeros.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn side_by_side(low: &[f32], high: &[f32], to: &mut [u32]) {
    for (i, to) in to.chunks_exact_mut(LINE).enumerate() {
        let [words] = mixed(load(low, i * LINE), load(high, i * LINE));
        store(words, to);
    }
}

/// 16 rows of 16 words, turned.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn transpose(block: &mut [__m512i; LINE]) {
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    // Rows `i` and `i + 8` interleaved; four times over, this transposes.
    for _ in 0..4 {
        let from = *block;
        for i in 0..LINE / 2 {
            block[2 * i] = _mm512_permutex2var_epi32(from[i], low, from[i + 8]);
            block[2 * i + 1] = _mm512_permutex2var_epi32(from[i], high, from[i + 8]);
        }
    }
}

/// Columns `0..used` of `depth` rows of `src`, `pitch` apart, in panels of `VECTORS` vectors, `to_pitch` apart: row `p`
/// of a panel gets pair `p` of its columns. The last panel is as wide as its columns need in whole vectors.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) fn columns<const VECTORS: usize, const PARTS: usize>(
    src: &[f32],
    pitch: usize,
    depth: usize,
    used: usize,
    to: &mut [u32],
    to_pitch: usize,
) {
    let width = VECTORS * LINE;
    let (full, rest) = (used / width, used % width);
    let row = |pair: usize, part: usize| pair / LINE * PARTS * LINE + part * LINE + pair % LINE;
    // Along the rows: they may lie so far apart that each one is a page of its own.
    for pair in 0..depth.div_ceil(2) {
        let low = &src[2 * pair * pitch..][..used];
        let high: &[f32] = if 2 * pair + 1 < depth { &src[(2 * pair + 1) * pitch..][..used] } else { &[] };
        for panel in 0..full {
            for v in 0..VECTORS {
                let at = panel * width + v * LINE;
                ahead(low, AHEAD * pitch + at);
                ahead(high, AHEAD * pitch + at);
                let parts = mixed::<PARTS>(load(low, at), load(high, at));
                for (part, words) in parts.into_iter().enumerate() {
                    store(words, &mut to[panel * to_pitch + row(pair, part) * width + v * LINE..]);
                }
            }
        }
        let width = rest.next_multiple_of(LINE);
        for at in (0..rest).step_by(LINE) {
            let from = full * VECTORS * LINE + at;
            let parts = mixed::<PARTS>(load(low, from), load(high, from));
            for (part, words) in parts.into_iter().enumerate() {
                store(words, &mut to[full * to_pitch + row(pair, part) * width + at..]);
            }
        }
    }
    let pairs = depth.div_ceil(2);
    for panel in 0..used.div_ceil(width) {
        let width = width.min((used - panel * width).next_multiple_of(LINE));
        for (pair, part) in
            (pairs..pairs.next_multiple_of(LINE)).flat_map(|pair| (0..PARTS).map(move |part| (pair, part)))
        {
            to[panel * to_pitch + row(pair, part) * width..][..width].fill(0);
        }
    }
}

/// Asks for the cache line of element `at`, which may lie beyond the end.
#[inline]
fn ahead(src: &[f32], at: usize) {
    // SAFETY: a hint that never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(src.as_ptr().wrapping_add(at).cast()) }
}

/// Two rows of 16 numbers as 16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn mixed<const PARTS: usize>(low: __m512, high: __m512) -> [__m512i; PARTS] {
    // Element `i` of the first row, then that of the second.
    let first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let order =
        _mm512_or_si512(first, _mm512_slli_epi32::<16>(_mm512_add_epi32(first, _mm512_set1_epi32(16))));
    let mut parts = converted(low, high);
    for part in &mut parts {
        *part = _mm512_permutexvar_epi16(order, *part);
    }
    parts
}

/// Up to 32 numbers as 16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs<const PARTS: usize>(src: &[f32]) -> [__m512i; PARTS] {
    converted(load(src, 0), load(src, LINE))
}

/// Up to 16 numbers from `at` on, zeros where `src` ends.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn load(src: &[f32], at: usize) -> __m512 {
    let count = src.len().saturating_sub(at);
    if count >= LINE {
        // SAFETY: 16 elements from `at` on exist.
        unsafe { _mm512_loadu_ps(src.as_ptr().add(at)) }
    } else {
        // SAFETY: `count` elements from `at` on exist, and the mask has as many bits.
        unsafe { _mm512_maskz_loadu_ps((1 << count) - 1, src.as_ptr().wrapping_add(at)) }
    }
}

/// 32 numbers as bf16, those of `low` first; then, for more than one part, what that has cut off.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn converted<const PARTS: usize>(mut low: __m512, mut high: __m512) -> [__m512i; PARTS] {
    let mut parts = [_mm512_setzero_si512(); PARTS];
    for (i, part) in parts.iter_mut().enumerate() {
        // SAFETY: both are 64 bytes of any content.
        *part = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) };
        if i + 1 < PARTS {
            low = remainder(low, _mm512_castsi512_si256(*part));
            high = remainder(high, _mm512_extracti64x4_epi64::<1>(*part));
        }
    }
    parts
}

/// What numbers lose as bf16; nothing where they are infinite or no numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn remainder(values: __m512, rounded: __m256i) -> __m512 {
    let rounded = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded)));
    let lost = _mm512_sub_ps(values, rounded);
    _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(lost, lost), lost)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn store(words: __m512i, to: &mut [u32]) {
    let to = &mut to[..LINE];
    // SAFETY: the slice has 16 elements.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), words) }
}
