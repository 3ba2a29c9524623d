//! Random streams named by what they are for: `(seed, episode, purpose)` and nothing else.

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// What a stream is drawn for. Draws for one purpose never move those for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The map, its looks and where things lie at the start.
    Layout = 1,
    /// What happens while the episode runs: respawns, moving targets.
    Play = 2,
}

/// A random stream. The generator is PCG-64-MCG, whose output is a stable contract; the mappings are ours.
#[derive(Debug, Clone)]
pub struct Stream(Pcg64Mcg);

impl Stream {
    /// The stream of an episode and a purpose, at its beginning.
    pub fn new(seed: u64, episode: u64, purpose: Purpose) -> Self {
        let mut state = 0x243f_6a88_85a3_08d3;
        for part in [seed, episode, purpose as u64] {
            state = split_mix(state ^ split_mix(part));
        }
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&state.to_le_bytes());
        bytes[8..].copy_from_slice(&split_mix(state).to_le_bytes());
        Self(Pcg64Mcg::from_seed(bytes))
    }

    /// A uniform number below `n`; 0 where `n` is.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        // Lemire's method: the high word of a product, with the few low words thrown away that would favour some.
        let floor = if n == 0 { 0 } else { n.wrapping_neg() % n };
        loop {
            let product = u128::from(self.0.next_u64()) * u128::from(n);
            if product as u64 >= floor {
                return (product >> 64) as usize;
            }
        }
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// True with a probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + self.unit() * (high - low)
    }

    /// One of the items, `None` of none.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.below(items.len())]) }
    }

    /// Shuffles in place (Fisher, Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// SplitMix64's step.
fn split_mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_apart_and_draws_uniform() {
        let draw = |seed, episode, purpose| {
            let mut s = Stream::new(seed, episode, purpose);
            (0..4).map(|_| s.below(1 << 40)).collect::<Vec<_>>()
        };
        let all = [
            draw(0, 0, Purpose::Layout),
            draw(1, 0, Purpose::Layout),
            draw(0, 1, Purpose::Layout),
            draw(0, 0, Purpose::Play),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b));
        }
        assert_eq!(all[0], draw(0, 0, Purpose::Layout));

        let mut stream = Stream::new(3, 0, Purpose::Play);
        let mut counts = [0; 7];
        for _ in 0..70_000 {
            counts[stream.below(7)] += 1;
            let u = stream.unit();
            assert!((0.0..1.0).contains(&u));
        }
        // 10 000 each, standard deviation 93.
        assert!(counts.iter().all(|c| (9_500..10_500).contains(c)), "{counts:?}");
        assert_eq!(stream.below(0), 0);
        assert_eq!(stream.pick::<u8>(&[]), None);
    }
}
