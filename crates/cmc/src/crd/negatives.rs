//! Rows of other classes.

use std::collections::HashSet;

use candle_core::{Device, Tensor};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::Progress;
use contrastive_core::{Error, Result};

/// For each class, the samples of all other classes.
#[derive(Debug, Clone)]
pub struct OtherClasses {
    labels: Vec<u32>,
    others: Vec<Vec<u32>>,
}

impl OtherClasses {
    /// From the label of every training sample, below `classes`.
    ///
    /// # Errors
    /// [`Error::Data`] for a label out of range, or fewer than two classes among the samples.
    pub fn new(labels: &[u32], classes: usize) -> Result<Self> {
        if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
            return Err(Error::data("labels", format!("{label} is out of range for {classes} classes")));
        }
        if labels.iter().all(|label| Some(label) == labels.first()) {
            return Err(Error::data("labels", "negatives are of other classes; there is one at most"));
        }
        let of = |class: u32| {
            let others = labels.iter().enumerate().filter(|(_, label)| **label != class);
            others.map(|(i, _)| i as u32).collect()
        };
        Ok(Self { labels: labels.to_vec(), others: (0..classes as u32).map(of).collect() })
    }

    /// Rows for each of `samples`, `[B, K + 1]` of u32: its own in column 0, then K of other classes, each once where
    /// there are as many, and otherwise with replacement. They depend on step and sample alone.
    ///
    /// # Errors
    /// [`Error::Data`] for a sample without a label.
    pub fn rows(
        &self,
        samples: &[u64],
        negatives: usize,
        progress: &Progress,
        device: &Device,
    ) -> Result<Tensor> {
        let key = Key::new(progress.seed, Purpose::Negatives).epoch(progress.step);
        let mut rows = Vec::with_capacity(samples.len() * (negatives + 1));
        for &sample in samples {
            let Some(&label) = self.labels.get(sample as usize) else {
                return Err(Error::data("labels", format!("sample {sample} of {}", self.labels.len())));
            };
            let others = &self.others[label as usize];
            rows.push(sample as u32);
            let mut stream = key.sample(sample).stream();
            let count = others.len();
            if negatives <= count {
                // Floyd's way: as many draws as rows.
                let mut taken = HashSet::with_capacity(negatives);
                for last in count - negatives..count {
                    let drawn = stream.below(last as u64 + 1) as usize;
                    let place = if taken.insert(drawn) { drawn } else { last };
                    taken.insert(place);
                    rows.push(others[place]);
                }
            } else {
                rows.extend((0..negatives).map(|_| others[stream.below(count as u64) as usize]));
            }
        }
        Ok(Tensor::from_vec(rows, (samples.len(), negatives + 1), device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negatives_are_of_other_classes_and_each_comes_once() -> Result<()> {
        let labels: Vec<u32> = (0..60).map(|i| i % 3).collect();
        let others = OtherClasses::new(&labels, 3)?;
        let progress =
            Progress { seed: 1, step: 4, total_steps: 10, epoch: 0, total_epochs: 1, steps_per_epoch: 10 };
        let rows = others.rows(&[7, 8], 25, &progress, &Device::Cpu)?.to_vec2::<u32>()?;
        for (row, own) in rows.iter().zip([7u32, 8]) {
            assert_eq!(row[0], own);
            assert!(row[1..].iter().all(|&r| labels[r as usize] != labels[own as usize]));
            assert_eq!(row[1..].iter().collect::<HashSet<_>>().len(), 25);
        }
        assert_eq!(rows[1..], others.rows(&[8], 25, &progress, &Device::Cpu)?.to_vec2::<u32>()?);
        let many = others.rows(&[7], 100, &progress, &Device::Cpu)?.to_vec2::<u32>()?;
        assert!(many[0][1..].iter().all(|&r| labels[r as usize] != 1));
        assert!(others.rows(&[60], 5, &progress, &Device::Cpu).is_err());
        assert!(OtherClasses::new(&[1, 1], 3).is_err() && OtherClasses::new(&[0, 3], 3).is_err());
        Ok(())
    }
}
