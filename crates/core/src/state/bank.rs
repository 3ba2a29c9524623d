//! A memory bank: one embedding per training sample.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::momentum::saved;
use crate::rng::{Key, Purpose};
use crate::tensor::l2_normalize;
use crate::{Error, Result};

/// One row `[D]` for each of `N` samples (Wu et al. 2018, section 3.1). Nothing here is part of a graph.
#[derive(Debug)]
pub struct MemoryBank {
    name: String,
    rows: Tensor,
}

impl MemoryBank {
    /// A bank of `[samples, dim]` drawn from `seed`: uniform in `±1/sqrt(dim/3)`, so that rows have unit length in the
    /// mean. `name` stands in checkpoints.
    ///
    /// # Errors
    /// A size of 0.
    pub fn new(name: &str, [samples, dim]: [usize; 2], seed: u64, device: &Device) -> Result<Self> {
        if samples == 0 || dim == 0 {
            return Err(Error::config(
                name.to_string(),
                format!("a bank of [{samples}, {dim}] holds nothing"),
            ));
        }
        let bound = 1.0 / (dim as f64 / 3.0).sqrt();
        let mut stream = Key::new(seed, Purpose::State).name(name).stream();
        let values: Vec<f32> = (0..samples * dim).map(|_| stream.uniform(-bound, bound) as f32).collect();
        Ok(Self { name: name.to_string(), rows: Tensor::from_vec(values, (samples, dim), device)? })
    }

    /// All rows, `[N, D]`.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// N.
    pub fn len(&self) -> usize {
        self.rows.dims()[0]
    }

    /// Never: there is no bank of length 0.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The rows of these samples, `[M, D]`.
    ///
    /// # Errors
    /// An index beyond the bank.
    pub fn gather(&self, samples: &[u64]) -> Result<Tensor> {
        self.check(samples)?;
        let indices: Vec<u32> = samples.iter().map(|&i| i as u32).collect();
        let indices = Tensor::from_vec(indices, samples.len(), self.rows.device())?;
        Ok(self.rows.index_select(&indices, 0)?)
    }

    /// `V[y] = norm(m V[y] + (1 - m) f)` for each sample `y` with its feature `f`, a row of `features` `[M, D]`; in
    /// place, so make it after the backward pass of whatever used [`MemoryBank::rows`]. With ranks, bring the samples
    /// of all of them.
    ///
    /// # Errors
    /// An index beyond the bank, features of another shape.
    pub fn update(&mut self, samples: &[u64], features: &Tensor, momentum: f64) -> Result<()> {
        let dim = self.rows.dims()[1];
        if features.dims() != [samples.len(), dim] {
            return Err(Error::shape("memory bank", format!("[{}, {dim}]", samples.len()), features.dims()));
        }
        let old = self.gather(samples)?;
        let new =
            l2_normalize(&((old * momentum)? + (features.detach() * (1.0 - momentum))?)?)?.contiguous()?;
        for (row, &sample) in samples.iter().enumerate() {
            self.rows.slice_set(&new.narrow(0, row, 1)?.contiguous()?, 0, sample as usize)?;
        }
        Ok(())
    }

    fn check(&self, samples: &[u64]) -> Result<()> {
        match samples.iter().find(|&&sample| sample as usize >= self.len()) {
            Some(sample) => {
                let reason = format!("sample {sample}, but the bank was made for {}", self.len());
                Err(Error::data(&self.name, reason))
            }
            None => Ok(()),
        }
    }

    /// For [`crate::train::Method::state`].
    pub fn state(&self) -> Vec<(String, Tensor)> {
        vec![(self.name.clone(), self.rows.clone())]
    }

    /// Takes back what [`MemoryBank::state`] gave.
    ///
    /// # Errors
    /// A missing name or another shape; nothing has changed then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let rows = saved(state, &self.name, self.rows.dims())?;
        // A copy: updates write in place.
        self.rows = rows.to_device(self.rows.device())?.to_dtype(DType::F32)?.copy()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_moves_its_rows_alone() -> Result<()> {
        let mut bank = MemoryBank::new("bank", [4, 3], 1, &Device::Cpu)?;
        let before = bank.rows().to_vec2::<f32>()?;
        let state: HashMap<_, _> =
            bank.state().into_iter().map(|(n, t)| Ok((n, t.copy()?))).collect::<Result<_>>()?;
        bank.update(&[2], &Tensor::new(&[[0f32, 0.0, 1.0]], &Device::Cpu)?, 0.5)?;
        let after = bank.rows().to_vec2::<f32>()?;
        assert_eq!([&after[0], &after[1], &after[3]], [&before[0], &before[1], &before[3]]);
        let raw: Vec<f32> =
            before[2].iter().zip([0.0, 0.0, 1.0]).map(|(old, new)| 0.5 * old + 0.5 * new).collect();
        let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        for (got, raw) in after[2].iter().zip(&raw) {
            assert!((got - raw / norm).abs() < 1e-6);
        }
        assert!(bank.gather(&[4]).is_err());
        bank.load_state(&state)?;
        assert_eq!(bank.rows().to_vec2::<f32>()?, before);
        Ok(())
    }
}
