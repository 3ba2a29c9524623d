//! A first-in, first-out queue of embeddings.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::momentum::saved;
use super::scalar;
use crate::rng::{Key, Purpose};
use crate::tensor::l2_normalize;
use crate::{Error, Result};

/// The last `K` embeddings that were pushed, `[K, D]` (He et al. 2020, section 3.1; SwAV's queue).
///
/// A ring: new rows overwrite the oldest. Nothing here is part of a graph. A push writes in place, so make it after the
/// backward pass of whatever used [`Queue::rows`].
#[derive(Debug)]
pub struct Queue {
    name: String,
    rows: Tensor,
    next: usize,
    pushed: usize,
}

impl Queue {
    /// A queue full of random directions (MoCo), drawn from `seed`. `name` stands in checkpoints.
    ///
    /// # Errors
    /// A size of 0.
    pub fn random(name: &str, [k, d]: [usize; 2], seed: u64, device: &Device) -> Result<Self> {
        let mut stream = Key::new(seed, Purpose::State).name(name).stream();
        let values: Vec<f32> = (0..k * d).map(|_| stream.normal() as f32).collect();
        let mut queue = Self::empty(name, [k, d], device)?;
        queue.rows = l2_normalize(&Tensor::from_vec(values, (k, d), &Device::Cpu)?)?.to_device(device)?;
        Ok(queue)
    }

    /// A queue of zeros, to be used once it [is full](Queue::is_full) (SwAV).
    ///
    /// # Errors
    /// A size of 0.
    pub fn empty(name: &str, [k, d]: [usize; 2], device: &Device) -> Result<Self> {
        if k == 0 || d == 0 {
            return Err(Error::config(name.to_string(), format!("a queue of [{k}, {d}] holds nothing")));
        }
        let rows = Tensor::zeros((k, d), DType::F32, device)?;
        Ok(Self { name: name.to_string(), rows, next: 0, pushed: 0 })
    }

    /// The rows in no particular order, `[K, D]`.
    pub fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// Whether every row was pushed.
    pub fn is_full(&self) -> bool {
        self.pushed >= self.len()
    }

    /// K.
    pub fn len(&self) -> usize {
        self.rows.dims()[0]
    }

    /// Never: there is no queue of length 0.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Replaces the oldest rows by `rows` `[N, D]`, N at most K. With ranks, push the rows of all of them.
    ///
    /// # Errors
    /// Rows of another width, or more than the queue holds.
    pub fn push(&mut self, rows: &Tensor) -> Result<()> {
        let (k, d) = self.rows.dims2()?;
        let n = match *rows.dims() {
            [n, width] if width == d && n <= k => n,
            _ => return Err(Error::shape("queue", format!("[N, {d}] with N up to {k}"), rows.dims())),
        };
        let rows = rows.detach().contiguous()?;
        let first = n.min(k - self.next);
        self.rows.slice_set(&rows.narrow(0, 0, first)?.contiguous()?, 0, self.next)?;
        if first < n {
            self.rows.slice_set(&rows.narrow(0, first, n - first)?.contiguous()?, 0, 0)?;
        }
        self.next = (self.next + n) % k;
        self.pushed = (self.pushed + n).min(k);
        Ok(())
    }

    /// For [`crate::train::Method::state`].
    ///
    /// # Errors
    /// Candle's.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let count = |x: usize| Tensor::new(&[x as u32], &Device::Cpu);
        let name = &self.name;
        Ok(vec![
            (name.clone(), self.rows.clone()),
            (format!("{name}.next"), count(self.next)?),
            (format!("{name}.pushed"), count(self.pushed)?),
        ])
    }

    /// Takes back what [`Queue::state`] gave.
    ///
    /// # Errors
    /// A missing name or another shape; nothing has changed then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let rows = saved(state, &self.name, self.rows.dims())?;
        let next = scalar(state, &format!("{}.next", self.name))?;
        let pushed = scalar(state, &format!("{}.pushed", self.name))?;
        // A copy: pushes write in place.
        self.rows = rows.to_device(self.rows.device())?.copy()?;
        (self.next, self.pushed) = (next as usize % self.len(), pushed as usize);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(queue: &Queue) -> Result<Vec<f32>> {
        Ok(queue.rows().narrow(1, 0, 1)?.flatten_all()?.to_vec1()?)
    }

    #[test]
    fn rows_replace_the_oldest_and_survive_a_checkpoint() -> Result<()> {
        let mut queue = Queue::empty("queue", [5, 2], &Device::Cpu)?;
        let rows = |from: u32| {
            (Tensor::arange(from, from + 6, &Device::Cpu)?.to_dtype(DType::F32)? / 2.0)?.reshape((3, 2))
        };
        queue.push(&rows(2)?)?;
        assert!(!queue.is_full());
        assert_eq!(column(&queue)?, [1.0, 2.0, 3.0, 0.0, 0.0]);
        let state: HashMap<_, _> =
            queue.state()?.into_iter().map(|(n, t)| Ok((n, t.copy()?))).collect::<Result<_>>()?;
        queue.push(&rows(8)?)?;
        assert!(queue.is_full());
        assert_eq!(column(&queue)?, [6.0, 2.0, 3.0, 4.0, 5.0]);
        let mut again = Queue::random("queue", [5, 2], 1, &Device::Cpu)?;
        again.load_state(&state)?;
        again.push(&rows(8)?)?;
        assert_eq!(column(&again)?, column(&queue)?);
        assert!(again.push(&Tensor::zeros((6, 2), DType::F32, &Device::Cpu)?).is_err());
        assert!(Queue::empty("queue", [4, 2], &Device::Cpu)?.load_state(&state).is_err());
        Ok(())
    }

    #[test]
    fn random_rows_have_unit_length() -> Result<()> {
        let queue = Queue::random("queue", [7, 3], 1, &Device::Cpu)?;
        for norm in queue.rows().sqr()?.sum(1)?.to_vec1::<f32>()? {
            assert!((norm - 1.0).abs() < 1e-5);
        }
        Ok(())
    }
}
