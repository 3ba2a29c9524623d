//! The best few of a row of similarities.

#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::{Level, level};

/// A training sample and its similarity to a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Index in the training set.
    pub index: u32,
    /// Dot product with the query.
    pub similarity: f32,
}

/// Similarities that are compared at a time.
const LANES: usize = 64;

/// The best `k` of a sequence. Candidates above the k-th best seen so far gather in a bounded buffer; when it is full
/// a selection drops all but `k` and raises the bar, which costs a constant per candidate where a heap costs log k.
pub(super) struct Best {
    k: usize,
    bar: f32,
    // One integer per candidate, ordered as (similarity descending, index ascending).
    keys: Vec<u64>,
}

impl Best {
    pub(super) fn new(k: usize) -> Self {
        Self { k, bar: f32::NEG_INFINITY, keys: Vec::with_capacity(2 * k + LANES) }
    }

    /// Later indices must be higher than earlier ones: then a similarity equal to the bar never belongs to the best.
    pub(super) fn take(&mut self, similarities: &[f32], first: u32) {
        let mut above = above();
        let mut chunks = similarities.chunks_exact(LANES);
        let mut at = first;
        for lanes in &mut chunks {
            // The compiler knows the length of an array.
            if let Ok(lanes) = lanes.try_into() {
                self.pick(lanes, above(lanes, self.bar), at);
            }
            at += LANES as u32;
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            lanes[..rest.len()].copy_from_slice(rest);
            self.pick(&lanes, plain(&lanes, self.bar), at);
        }
    }

    /// Takes the lanes whose bit is set.
    #[inline(always)]
    fn pick(&mut self, lanes: &[f32; LANES], mut mask: u64, first: u32) {
        if mask == 0 {
            return;
        }
        while mask != 0 {
            let lane = mask.trailing_zeros();
            self.keys.push(key(lanes[lane as usize], first + lane));
            mask &= mask - 1;
        }
        if self.keys.len() >= 2 * self.k {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.k == 0 || self.keys.len() < self.k {
            return;
        }
        let (_, last, _) = self.keys.select_nth_unstable(self.k - 1);
        self.bar = neighbour(*last).similarity;
        self.keys.truncate(self.k);
    }

    /// The best, nearest first.
    pub(super) fn finish(mut self) -> Vec<Neighbour> {
        self.cut();
        self.keys.sort_unstable();
        self.keys.iter().take(self.k).map(|&key| neighbour(key)).collect()
    }
}

/// Which lanes are above `bar`, the first in the lowest bit, by the best instructions of this machine.
fn above() -> impl FnMut(&[f32; LANES], f32) -> u64 {
    #[cfg(target_arch = "x86_64")]
    let level = level();
    move |lanes: &[f32; LANES], bar: f32| {
        #[cfg(target_arch = "x86_64")]
        match level {
            // SAFETY: the level is only given by a machine that has these instructions.
            Level::Avx512 => return unsafe { x86::above_avx512(lanes, bar) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { x86::above_avx2(lanes, bar) },
            Level::Portable => {}
        }
        plain(lanes, bar)
    }
}

fn plain(lanes: &[f32; LANES], bar: f32) -> u64 {
    // Almost no chunk has a candidate; counting without a branch is what the compiler vectorises.
    if lanes.iter().map(|&s| u32::from(s > bar)).sum::<u32>() == 0 {
        return 0;
    }
    lanes.iter().enumerate().fold(0, |mask, (i, &s)| mask | u64::from(s > bar) << i)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::LANES;

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn above_avx512(lanes: &[f32; LANES], bar: f32) -> u64 {
        let bar = _mm512_set1_ps(bar);
        let mut mask = 0;
        for i in 0..LANES / 16 {
            // SAFETY: 16 elements from a multiple of 16 on lie within the array.
            let values = unsafe { _mm512_loadu_ps(lanes.as_ptr().add(16 * i)) };
            mask |= u64::from(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(values, bar)) << (16 * i);
        }
        mask
    }

    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn above_avx2(lanes: &[f32; LANES], bar: f32) -> u64 {
        let bar = _mm256_set1_ps(bar);
        let mut mask = 0;
        for i in 0..LANES / 8 {
            // SAFETY: 8 elements from a multiple of 8 on lie within the array.
            let values = unsafe { _mm256_loadu_ps(lanes.as_ptr().add(8 * i)) };
            let bits = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(values, bar)) as u8;
            mask |= u64::from(bits) << (8 * i);
        }
        mask
    }
}

fn key(similarity: f32, index: u32) -> u64 {
    // Adding 0 turns -0 into 0, which must not stand apart. The bits of a float, with the sign bit set for positive
    // ones and all bits flipped for negative ones, are ordered as the floats are; the complement reverses that.
    let bits = (similarity + 0.0).to_bits();
    let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(!ordered) << 32 | u64::from(index)
}

fn neighbour(key: u64) -> Neighbour {
    let ordered = !((key >> 32) as u32);
    let bits = if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered };
    Neighbour { index: key as u32, similarity: f32::from_bits(bits) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};

    #[test]
    fn every_way_to_compare_says_the_same() {
        let mut stream = Key::new(2, Purpose::Data).stream();
        let lanes: [f32; LANES] = std::array::from_fn(|_| stream.normal() as f32);
        for bar in [f32::NEG_INFINITY, -0.5, lanes[7], 0.0, 2.0, f32::INFINITY] {
            let expected =
                lanes.iter().enumerate().filter(|(_, s)| **s > bar).fold(0, |m, (i, _)| m | 1 << i);
            assert_eq!(plain(&lanes, bar), expected);
            assert_eq!(above()(&lanes, bar), expected);
        }
    }

    #[test]
    fn keeps_the_best_of_ragged_pieces() {
        let mut stream = Key::new(3, Purpose::Data).stream();
        let values: Vec<f32> = (0..1000).map(|_| stream.below(40) as f32 - 20.0).collect();
        let mut best = Best::new(17);
        let mut first = 0;
        for piece in [1, 63, 64, 65, 200, 607] {
            best.take(&values[first..first + piece], first as u32);
            first += piece;
        }
        let mut all: Vec<(f32, u32)> = values.iter().copied().zip(0..).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let got: Vec<(f32, u32)> = best.finish().iter().map(|n| (n.similarity, n.index)).collect();
        assert_eq!(got, all[..17]);
    }
}
