//! Keyed random streams: every draw in the workspace comes from a [`Stream`] named by what it is for.
//!
//! A stream is a function of its [`Key`] alone. Two threads that draw for different samples never share a generator,
//! so results cannot depend on thread or worker count, and a resumed run needs no generator state: it names the same
//! keys again. The generator is PCG-64-MCG, whose output is a documented, stable contract; the mappings from bits to
//! floats, normals and permutations are ours, so that no dependency's update changes a run.

mod normal;

use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// What a draw is for. Streams with different purposes are independent even when all numbers agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Parameter initialisation; `sample` is a hash of the parameter's name.
    Init,
    /// The order of samples in an epoch.
    Shuffle,
    /// Augmentation of one view of one sample.
    Augment,
    /// Stochastic layers (stochastic depth, dropout).
    Layer,
    /// Negatives drawn from a bank or a batch.
    Negatives,
    /// Initial contents of queues, banks, centres, prototypes.
    State,
    /// Evaluation (probe shuffling, subsets).
    Eval,
    /// Synthetic data and tests.
    Data,
    /// Actions drawn by a policy; `epoch` is the step, `sample` the environment.
    Policy,
}

/// The name of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The run's seed.
    pub seed: u64,
    /// What the draws are for.
    pub purpose: Purpose,
    /// Epoch, from 0 (0 where there is none).
    pub epoch: u64,
    /// Sample index in the source, or a hash of a name.
    pub sample: u64,
    /// View of the sample, from 0 (0 where there is none).
    pub view: u64,
}

impl Key {
    /// A key for draws that belong to no epoch, sample or view.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        Self { seed, purpose, epoch: 0, sample: 0, view: 0 }
    }

    /// The same key in another epoch.
    pub fn epoch(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }

    /// The same key for another sample.
    pub fn sample(self, sample: u64) -> Self {
        Self { sample, ..self }
    }

    /// The same key for another view.
    pub fn view(self, view: u64) -> Self {
        Self { view, ..self }
    }

    /// The same key with a name (of a parameter, of a layer) in the place of the sample.
    pub fn name(self, name: &str) -> Self {
        // FNV-1a: short, stable, and spread further by the mixing in `stream`.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        self.sample(hash)
    }

    /// The stream of this key, at its beginning.
    pub fn stream(self) -> Stream {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut words = [0u64; 2];
        for part in [self.seed, self.purpose as u64, self.epoch, self.sample, self.view] {
            state = split_mix(state ^ split_mix(part));
            words[0] = words[0].rotate_left(23) ^ state;
        }
        words[1] = split_mix(state);
        let mut seed = [0u8; 16];
        seed[..8].copy_from_slice(&words[0].to_le_bytes());
        seed[8..].copy_from_slice(&words[1].to_le_bytes());
        Stream { generator: Pcg64Mcg::from_seed(seed) }
    }
}

/// SplitMix64's step: a bijection that spreads every input bit over the word.
fn split_mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Standard deviations at which [`Stream::truncated_normal`] cuts.
const CUT: f64 = 2.0;

/// A random stream; see the [module](self) documentation.
#[derive(Debug, Clone)]
pub struct Stream {
    generator: Pcg64Mcg,
}

impl Stream {
    /// 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// The same stream after `draws` more calls of [`Stream::bits`]: where a thread begins that makes a later part of
    /// the draws.
    #[must_use]
    pub fn skip(&self, draws: u64) -> Self {
        let mut generator = self.generator.clone();
        generator.advance(u128::from(draws));
        Self { generator }
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Uniform in `0..n`, without bias. `n` = 0 gives 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        // Lemire's multiply-shift with rejection.
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.bits()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box-Muller; one of the pair is dropped so that draws never carry state): two calls of
    /// [`Stream::bits`].
    pub fn normal(&mut self) -> f64 {
        let radius = self.unit();
        normal::normal(radius, self.unit())
    }

    /// A block of which the first `n` values are what [`Stream::normal`] would give.
    fn normals(&mut self, n: usize) -> [f64; normal::BLOCK] {
        let (mut radii, mut turns) = ([0f64; normal::BLOCK], [0f64; normal::BLOCK]);
        for (radius, turns) in radii.iter_mut().zip(&mut turns).take(n) {
            *radius = self.unit();
            *turns = self.unit();
        }
        normal::normals(&mut radii, &turns);
        radii
    }

    /// `std` times [`Stream::normal`] in every place of `out`: the same values from the same draws, several times as
    /// fast.
    pub fn fill_normal(&mut self, out: &mut [f32], std: f64) {
        for block in out.chunks_mut(normal::BLOCK) {
            let drawn = self.normals(block.len());
            block.iter_mut().zip(drawn).for_each(|(out, x)| *out = (std * x) as f32);
        }
    }

    /// Standard normal cut at two standard deviations by rejection (TensorFlow's and timm's `trunc_normal`).
    pub fn truncated_normal(&mut self) -> f64 {
        loop {
            let x = self.normal();
            if x.abs() <= CUT {
                return x;
            }
        }
    }

    /// `std` times [`Stream::truncated_normal`] in every place of `out`, as [`Stream::fill_normal`].
    pub fn fill_truncated_normal(&mut self, mut out: &mut [f32], std: f64) {
        while !out.is_empty() {
            // Never more than are missing, so that no draw is made in vain.
            let n = out.len().min(normal::BLOCK);
            let drawn = self.normals(n);
            let mut kept = 0;
            for x in drawn.iter().take(n).filter(|x| x.abs() <= CUT) {
                out[kept] = (std * x) as f32;
                kept += 1;
            }
            out = &mut out[kept..];
        }
    }

    /// Fisher-Yates in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }

    /// A permutation of `0..n`.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_functions_of_every_part_of_the_key() {
        let key = Key::new(1, Purpose::Augment).epoch(2).sample(3).view(4);
        let first = key.stream().bits();
        assert_eq!(first, key.stream().bits());
        let others = [
            Key { seed: 2, ..key },
            Key { purpose: Purpose::Shuffle, ..key },
            key.epoch(3),
            key.sample(4),
            key.view(5),
            key.epoch(3).sample(2),
            key.name("layer1"),
        ];
        for (i, other) in others.iter().enumerate() {
            assert_ne!(first, other.stream().bits(), "key {i}");
        }
    }

    #[test]
    fn values_are_pinned() {
        // A change of these numbers changes every published run.
        let mut s = Key::new(0, Purpose::Init).stream();
        let drawn = [s.bits(), s.bits()];
        assert_eq!(drawn, PINNED, "{drawn:#x?}");
    }

    #[test]
    fn a_stream_can_begin_anywhere() {
        let mut stream = Key::new(3, Purpose::Init).stream();
        let start = stream.clone();
        let drawn: Vec<f64> = (0..9).map(|_| stream.normal()).collect();
        for (i, &x) in drawn.iter().enumerate() {
            assert_eq!(start.skip(2 * i as u64).normal(), x);
        }
    }

    #[test]
    fn filled_slices_hold_what_single_draws_give() {
        for n in [0, 1, 127, 128, 129, 1000] {
            let (mut all, mut one) =
                (Key::new(4, Purpose::Init).stream(), Key::new(4, Purpose::Init).stream());
            let (mut normal, mut cut) = (vec![0f32; n], vec![0f32; n]);
            all.fill_normal(&mut normal, 0.3);
            all.fill_truncated_normal(&mut cut, 0.3);
            assert!(normal.iter().all(|&x| x == (0.3 * one.normal()) as f32), "{n} normals");
            assert!(cut.iter().all(|&x| x == (0.3 * one.truncated_normal()) as f32), "{n} truncated normals");
            assert_eq!(all.bits(), one.bits(), "draws of {n}");
        }
    }

    const PINNED: [u64; 2] = [18339631641595304378, 6493450287689661873];

    #[test]
    fn moments_and_ranges() {
        let mut s = Key::new(7, Purpose::Data).stream();
        let n = 200_000;
        let (mut sum, mut square) = (0.0, 0.0);
        for _ in 0..n {
            let x = s.normal();
            sum += x;
            square += x * x;
        }
        let (mean, variance) = (sum / f64::from(n), square / f64::from(n));
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[s.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
        let mut order = s.permutation(100);
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, &x)| i == x));
    }
}
