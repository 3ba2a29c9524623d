//! Which rows of a memory bank a sample is compared with.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::progress::Progress;
use crate::rng::{Key, Purpose};

/// Rows of a bank of `bank` for each of `samples`, `[B, K + 1]` of u32: its own in column 0, then K drawn uniformly with
/// replacement. As in the official code nothing is filtered: the noise may hold the own row, and a row twice.
///
/// What a sample draws depends on the step and on its index alone, not on the batch or the rank that it is in.
///
/// # Errors
/// A device without room.
pub fn bank_rows(
    samples: &[u64],
    negatives: usize,
    bank: usize,
    progress: &Progress,
    device: &Device,
) -> Result<Tensor> {
    let key = Key::new(progress.seed, Purpose::Negatives).epoch(progress.step);
    let mut rows = Vec::with_capacity(samples.len() * (negatives + 1));
    for &sample in samples {
        rows.push(sample as u32);
        let mut stream = key.sample(sample).stream();
        rows.extend((0..negatives).map(|_| stream.below(bank as u64) as u32));
    }
    Ok(Tensor::from_vec(rows, (samples.len(), negatives + 1), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: u64) -> Progress {
        Progress { seed: 1, step, total_steps: 100, epoch: 0, total_epochs: 1, steps_per_epoch: 100 }
    }

    #[test]
    fn noise_is_uniform_and_belongs_to_sample_and_step() -> Result<()> {
        let of = |samples: &[u64], step| -> Result<Vec<Vec<u32>>> {
            Ok(bank_rows(samples, 4000, 10, &progress(step), &Device::Cpu)?.to_vec2::<u32>()?)
        };
        let both = of(&[3, 7], 5)?;
        assert_eq!([both[0][0], both[1][0]], [3, 7]);
        assert_eq!(both[1], of(&[7], 5)?[0]);
        assert_ne!(both[0][1..], both[1][1..]);
        assert_ne!(both[0], of(&[3], 6)?[0]);
        for row in 0..10 {
            // 400 expected, standard deviation 19; the own row is drawn as often as any.
            let count = both[0][1..].iter().filter(|&&r| r == row).count();
            assert!((320..480).contains(&count), "row {row}: {count}");
        }
        Ok(())
    }
}
