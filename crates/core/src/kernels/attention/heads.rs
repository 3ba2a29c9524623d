//! The arithmetic of one layer of self-attention.
//!
//! A unit of work is one head of one sample. Its keys and values are packed once; the queries go by in blocks whose
//! scores, against all keys, stay in the second-level cache. Nothing of the size tokens x tokens is kept: the backward
//! pass makes the probabilities anew from the logarithms of their sums.

#[cfg(test)]
mod tests;

use crate::kernels::gemm::{Columns, LINE, copy_columns, run, transpose_rows};
use crate::kernels::parallel::{self, Disjoint, scratch};
use crate::kernels::simd::math::{exp, fold, fused, larger, mul_add};
use crate::kernels::simd::{Level, PANEL, Tile, level};

/// Most queries of a block, and the fewest worth one.
const BLOCK: (usize, usize) = (96, 24);
/// Scores of a block at most (while the block is not the smallest), so that two sets of them fit the cache.
const SCORES: usize = 32 * 1024;

/// Extents: `qkv` is `[n, tokens, 3, heads, width]`, the output `[n, tokens, heads, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attention {
    pub n: usize,
    pub tokens: usize,
    pub heads: usize,
    pub width: usize,
}

/// One head's columns of a matrix whose rows are tokens.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// From the head's first element on.
    data: &'a [f32],
    pitch: usize,
}

/// The right operand of a product: packed panels.
#[derive(Clone, Copy)]
struct Right<'a> {
    panels: &'a [f32],
    columns: Columns,
    /// Rows of a panel.
    rows: usize,
}

/// The left operand of a product: element `(r, k)` at `r * row + k * step`.
#[derive(Clone, Copy)]
struct Left<'a> {
    data: &'a [f32],
    row: usize,
    step: usize,
}

/// The result of a product: rows `pitch` apart, of which the unit of work owns the columns.
#[derive(Clone, Copy)]
struct Target<'a> {
    out: &'a Disjoint<'a>,
    start: usize,
    pitch: usize,
    /// Whether the product is added to what is there.
    add: bool,
}

impl Attention {
    fn pitch(self) -> usize {
        3 * self.heads * self.width
    }

    fn scale(self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Columns of the scores.
    fn keys(self) -> Columns {
        Columns(self.tokens)
    }

    /// Columns of everything that has a head's width.
    fn columns(self) -> Columns {
        Columns(self.width)
    }

    /// Distance of the rows of scores: an odd number of cache lines, so that columns do not collide in the cache.
    fn score_pitch(self) -> usize {
        self.keys().padded() | LINE
    }

    /// Queries of a block: even blocks.
    fn block(self) -> usize {
        let most = (SCORES / self.score_pitch()).clamp(BLOCK.1, BLOCK.0);
        self.tokens.div_ceil(self.tokens.div_ceil(most).max(1)).max(1)
    }

    /// Element of `qkv` where the part (query 0, key 1, value 2) of a head begins.
    fn start(self, unit: usize, part: usize) -> usize {
        let (sample, head) = (unit / self.heads, unit % self.heads);
        sample * self.tokens * self.pitch() + (part * self.heads + head) * self.width
    }

    fn part(self, qkv: &[f32], unit: usize, part: usize) -> Part<'_> {
        Part { data: &qkv[self.start(unit, part)..], pitch: self.pitch() }
    }

    /// Element of the output where a head begins.
    fn out_start(self, unit: usize) -> usize {
        let (sample, head) = (unit / self.heads, unit % self.heads);
        (sample * self.tokens * self.heads + head) * self.width
    }

    /// A head's part of all tokens as a right operand `[tokens, width]`.
    fn pack<'a>(self, part: Part, dst: &'a mut [f32]) -> Right<'a> {
        let columns = self.columns();
        for panel in 0..columns.panels() {
            let (used, width) = (columns.used(panel), columns.width(panel));
            let dst = &mut dst[panel * PANEL * self.tokens..][..self.tokens * width];
            copy_columns(part.data, part.pitch, panel * PANEL, (used, width), dst);
        }
        Right { panels: dst, columns, rows: self.tokens }
    }

    /// The same transposed, `[width, tokens]`.
    fn pack_transposed<'a>(self, part: Part, dst: &'a mut [f32]) -> Right<'a> {
        let keys = self.keys();
        for panel in 0..keys.panels() {
            let (used, width) = (keys.used(panel), keys.width(panel));
            let dst = &mut dst[panel * PANEL * self.width..][..self.width * width];
            let src = &part.data[panel * PANEL * part.pitch..];
            transpose_rows(src, (part.pitch, self.width), (used, width), None, dst);
        }
        Right { panels: dst, columns: Columns(keys.padded()), rows: self.width }
    }

    /// Elements of [`Attention::pack`] and of [`Attention::pack_transposed`].
    fn packed(self) -> (usize, usize) {
        (self.tokens * self.columns().padded(), self.width * self.keys().padded())
    }

    fn check(self, qkv: &[f32], y: &[f32], lse: &[f32]) {
        let tokens = self.n * self.tokens;
        assert!(
            qkv.len() == tokens * self.pitch()
                && y.len() * 3 == qkv.len()
                && lse.len() == tokens * self.heads,
            "attention: lengths"
        );
    }

    /// `y = softmax(q k^T / sqrt(width)) v`, and the logarithms of the sums of exponentials, `lse` `[n, heads, tokens]`.
    pub(crate) fn forward(self, qkv: &[f32], y: &mut [f32], lse: &mut [f32]) {
        self.forward_at(level(), qkv, y, lse);
    }

    fn forward_at(self, level: Level, qkv: &[f32], y: &mut [f32], lse: &mut [f32]) {
        self.check(qkv, y, lse);
        let (tokens, block, pitch) = (self.tokens, self.block(), self.score_pitch());
        let out_pitch = self.heads * self.width;
        let (out, sums) = (Disjoint::new(y), Disjoint::new(lse));
        let (packed, transposed) = self.packed();
        parallel::for_each(self.n * self.heads, |unit| {
            scratch(packed + transposed, block * (pitch + LINE), |operands, scores| {
                let (values, keys) = operands.split_at_mut(packed);
                let values = self.pack(self.part(qkv, unit, 2), values);
                let keys = self.pack_transposed(self.part(qkv, unit, 1), keys);
                let queries = self.part(qkv, unit, 0);
                let (scores, factors) = scores.split_at_mut(block * pitch);
                for first in (0..tokens).step_by(block) {
                    let rows = block.min(tokens - first);
                    multiply_into(level, rows, queries.left(first), keys.whole(), (scores, pitch));
                    let factors = &mut factors[..rows];
                    // SAFETY: every head of every sample has its own sums.
                    let lse = unsafe { sums.slice(unit * tokens + first, rows) };
                    softmax_rows(&mut scores[..rows * pitch], pitch, tokens, self.scale(), (factors, lse));
                    let left = Left { data: scores, row: pitch, step: 1 };
                    let start = self.out_start(unit) + first * out_pitch;
                    multiply(
                        level,
                        rows,
                        left,
                        values.whole(),
                        Target { out: &out, start, pitch: out_pitch, add: false },
                    );
                    for (row, factor) in factors.iter().enumerate() {
                        // SAFETY: a head's columns belong to its unit.
                        let y = unsafe { out.slice(start + row * out_pitch, self.width) };
                        y.iter_mut().for_each(|y| *y *= factor);
                    }
                }
            });
        });
    }

    /// The gradient of `qkv`, in its layout, from that of the output.
    pub(crate) fn backward(self, qkv: &[f32], lse: &[f32], dy: &[f32], d_qkv: &mut [f32]) {
        self.backward_at(level(), qkv, lse, dy, d_qkv);
    }

    fn backward_at(self, level: Level, qkv: &[f32], lse: &[f32], dy: &[f32], d_qkv: &mut [f32]) {
        self.check(qkv, dy, lse);
        assert_eq!(qkv.len(), d_qkv.len(), "attention: lengths");
        let (tokens, block, pitch) = (self.tokens, self.block(), self.score_pitch());
        let out = Disjoint::new(d_qkv);
        let (packed, transposed) = self.packed();
        parallel::for_each(self.n * self.heads, |unit| {
            scratch(3 * packed + 2 * transposed, 2 * block * pitch, |operands, scores| {
                let (queries, rest) = operands.split_at_mut(packed);
                let (keys, rest) = rest.split_at_mut(packed);
                let (gradients, rest) = rest.split_at_mut(packed);
                let (turned_keys, turned_values) = rest.split_at_mut(transposed);
                let part = |i| self.part(qkv, unit, i);
                let dy = Part { data: &dy[self.out_start(unit)..], pitch: self.heads * self.width };
                let queries = self.pack(part(0), queries);
                let keys = self.pack(part(1), keys);
                let gradients = self.pack(dy, gradients);
                let turned_keys = self.pack_transposed(part(1), turned_keys);
                let turned_values = self.pack_transposed(part(2), turned_values);
                let (scores, d_scores) = scores.split_at_mut(block * pitch);
                for first in (0..tokens).step_by(block) {
                    let rows = block.min(tokens - first);
                    multiply_into(level, rows, part(0).left(first), turned_keys.whole(), (scores, pitch));
                    multiply_into(level, rows, dy.left(first), turned_values.whole(), (d_scores, pitch));
                    let lse = &lse[unit * tokens + first..][..rows];
                    let used = rows * pitch;
                    softmax_gradient(
                        &mut scores[..used],
                        &mut d_scores[..used],
                        pitch,
                        tokens,
                        self.scale(),
                        lse,
                    );
                    let into = |i: usize, token: usize, add: bool| Target {
                        out: &out,
                        start: self.start(unit, i) + token * self.pitch(),
                        pitch: self.pitch(),
                        add,
                    };
                    let plain = Left { data: d_scores, row: pitch, step: 1 };
                    multiply(level, rows, plain, keys.whole(), into(0, first, false));
                    // Keys and values gather from all blocks.
                    let taken = (first, rows);
                    let turned = Left { row: 1, step: pitch, ..plain };
                    multiply(level, tokens, turned, (queries, taken), into(1, 0, first > 0));
                    let turned = Left { data: scores, ..turned };
                    multiply(level, tokens, turned, (gradients, taken), into(2, 0, first > 0));
                }
            });
        });
    }

    /// The probabilities of one query, `[n, heads, tokens]`.
    pub(crate) fn probabilities(self, qkv: &[f32], query: usize, out: &mut [f32]) {
        assert!(query < self.tokens, "attention: query");
        self.check(qkv, &qkv[..qkv.len() / 3], out);
        let (tokens, padded) = (self.tokens, self.keys().padded());
        let out = Disjoint::new(out);
        parallel::for_each(self.n * self.heads, |unit| {
            let keys = self.part(qkv, unit, 1);
            let query = &self.part(qkv, unit, 0).data[query * self.pitch()..][..self.width];
            scratch(padded, 0, |scores, _| {
                for (score, key) in scores.iter_mut().zip(keys.data.chunks(keys.pitch)).take(tokens) {
                    *score = query.iter().zip(key).map(|(q, k)| q * k).sum();
                }
                let (mut factor, mut lse) = ([0f32], [0f32]);
                softmax_rows(scores, padded, tokens, self.scale(), (&mut factor, &mut lse));
                // SAFETY: every head of every sample has its own row.
                let out = unsafe { out.slice(unit * tokens, tokens) };
                for (out, score) in out.iter_mut().zip(scores.iter()) {
                    *out = score * factor[0];
                }
            });
        });
    }
}

impl<'a> Part<'a> {
    /// As a left operand, from a token on.
    fn left(self, token: usize) -> Left<'a> {
        Left { data: &self.data[token * self.pitch..], row: self.pitch, step: 1 }
    }
}

impl<'a> Right<'a> {
    /// With all rows (first, count).
    fn whole(self) -> (Self, (usize, usize)) {
        (self, (0, self.rows))
    }
}

/// `into (+)= left right` for `rows` rows of the left operand and some rows (first, count) of the right one.
fn multiply(
    level: Level,
    rows: usize,
    left: Left,
    (right, (first, depth)): (Right, (usize, usize)),
    into: Target,
) {
    let columns = right.columns;
    assert!(
        first + depth <= right.rows
            && right.panels.len() >= right.rows * columns.padded()
            && left.data.len() > (rows - 1) * left.row + (depth - 1) * left.step,
        "attention: operands too short"
    );
    for strip in columns.strips(0..columns.panels()) {
        let start = into.start + strip.panel * PANEL;
        let tile = Tile {
            a: left.data.as_ptr(),
            a_row: left.row,
            a_step: left.step,
            b: right.panels[strip.panel * PANEL * right.rows + first * strip.step..].as_ptr(),
            b_step: strip.step,
            // SAFETY: the unit of work owns these columns; the last row ends with the panel.
            c: unsafe { into.out.pointer(start, (rows - 1) * into.pitch + strip.used) },
            c_row: into.pitch,
            depth,
            add: into.add,
        };
        let kernels = strip.kernels(level, PANEL * right.rows);
        // SAFETY: extents as asserted, and this unit alone writes the columns.
        unsafe { run(kernels, (strip.used, strip.width), rows, &tile) };
    }
}

/// The product as `rows` rows of memory that nobody else has, `pitch` apart.
fn multiply_into(
    level: Level,
    rows: usize,
    left: Left,
    right: (Right, (usize, usize)),
    (dst, pitch): (&mut [f32], usize),
) {
    let out = Disjoint::new(dst);
    multiply(level, rows, left, right, Target { out: &out, start: 0, pitch, add: false });
}

fused! {
    /// Rows of scores (`used` of `pitch` elements) to `e^(scale * (score - largest))`, with the reciprocal of the row's
    /// sum of these and the logarithm of the sum of `e^(scale * score)`. What is beyond `used` up to a whole cache line
    /// becomes 0.
    fn softmax_rows<const FMA: bool>(
        scores: &mut [f32],
        pitch: usize,
        used: usize,
        scale: f32,
        sums: (&mut [f32], &mut [f32]),
    ) {
        let padded = used.next_multiple_of(LINE);
        for (row, (factor, lse)) in scores.chunks_mut(pitch).zip(sums.0.iter_mut().zip(sums.1)) {
            let row = &mut row[..padded];
            row[used..].fill(f32::NEG_INFINITY);
            let (lines, _) = row.as_chunks_mut::<LINE>();
            let mut most = [f32::NEG_INFINITY; LINE];
            for line in lines.iter() {
                for (most, &score) in most.iter_mut().zip(line) {
                    *most = larger(score, *most);
                }
            }
            let most = most.iter().fold(f32::NEG_INFINITY, |most, &score| larger(score, most)) * scale;
            let mut total = [0f32; LINE];
            for line in lines {
                for (score, total) in line.iter_mut().zip(&mut total) {
                    *score = exp::<FMA>(mul_add::<FMA>(*score, scale, -most));
                    *total += *score;
                }
            }
            let total = fold(&total);
            *factor = 1.0 / total;
            *lse = most + total.ln();
        }
    }

    /// Rows of scores to probabilities `p`, and rows of their gradients `g` to the gradients of the scores,
    /// `scale * p * (g - sum of p g)`.
    fn softmax_gradient<const FMA: bool>(
        scores: &mut [f32],
        gradients: &mut [f32],
        pitch: usize,
        used: usize,
        scale: f32,
        lse: &[f32],
    ) {
        let padded = used.next_multiple_of(LINE);
        let rows = scores.chunks_mut(pitch).zip(gradients.chunks_mut(pitch));
        for ((scores, gradients), lse) in rows.zip(lse) {
            // Beyond `used` the gradients are zeros, so that the sums are right; the rest there is of no use.
            let (scores, _) = scores[..padded].as_chunks_mut::<LINE>();
            let (gradients, _) = gradients[..padded].as_chunks_mut::<LINE>();
            let mut total = [0f32; LINE];
            for (scores, gradients) in scores.iter_mut().zip(gradients.iter()) {
                for ((score, &gradient), total) in scores.iter_mut().zip(gradients).zip(&mut total) {
                    *score = exp::<FMA>(mul_add::<FMA>(*score, scale, -lse));
                    *total = mul_add::<FMA>(*score, gradient, *total);
                }
            }
            let total = fold(&total);
            for (scores, gradients) in scores.iter().zip(gradients) {
                for (&p, gradient) in scores.iter().zip(gradients) {
                    *gradient = p * scale * (*gradient - total);
                }
            }
        }
    }
}
