//! How long a rank waits for the others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::{Comm, Communicator};
use crate::Result;

/// A communicator that adds up the time spent in its calls: what a rank does not spend there, it computes.
#[derive(Debug)]
pub struct Timed {
    inner: Comm,
    nanos: AtomicU64,
}

impl Timed {
    /// Around another one.
    pub fn new(inner: Comm) -> Self {
        Self { inner, nanos: AtomicU64::new(0) }
    }

    /// The time since the last call of this function.
    pub fn take(&self) -> Duration {
        Duration::from_nanos(self.nanos.swap(0, Ordering::Relaxed))
    }

    fn timed<T>(&self, call: impl FnOnce(&Comm) -> T) -> T {
        let began = Instant::now();
        let outcome = call(&self.inner);
        self.nanos.fetch_add(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        outcome
    }
}

impl Communicator for Timed {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn size(&self) -> usize {
        self.inner.size()
    }
    fn all_reduce_sum(&self, x: &Tensor) -> Result<Tensor> {
        self.timed(|comm| comm.all_reduce_sum(x))
    }
    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        self.timed(|comm| comm.all_gather(x))
    }
    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor> {
        self.timed(|comm| comm.broadcast(x, root))
    }
    fn barrier(&self) -> Result<()> {
        self.timed(|comm| comm.barrier())
    }
}

/// The rank that computes longest and how many times as long as the middle one, if that is more than `times`.
///
/// The middle of an even number is the lower of the two, so that of two ranks the slow one is seen.
pub fn straggler(seconds: &[f64], times: f64) -> Option<(usize, f64)> {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    let (rank, most) = seconds.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    let ratio = most / middle.max(1e-9);
    (ratio > times).then_some((rank, ratio))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::single;

    #[test]
    fn a_slow_rank_is_found_among_two_and_more() {
        assert_eq!(straggler(&[1.0, 3.0], 1.5), Some((1, 3.0)));
        assert_eq!(straggler(&[4.0, 1.0, 2.0, 1.0], 1.5), Some((0, 4.0)));
        assert_eq!(straggler(&[1.0, 1.2, 1.1], 1.5), None);
        assert_eq!(straggler(&[1.0], 1.5), None);
        assert_eq!(straggler(&[], 1.5), None);
    }

    #[test]
    fn time_in_calls_is_added_up_and_taken_once() -> Result<()> {
        #[derive(Debug)]
        struct Slow(Comm);
        impl Communicator for Slow {
            fn rank(&self) -> usize {
                self.0.rank()
            }
            fn size(&self) -> usize {
                self.0.size()
            }
            fn all_reduce_sum(&self, x: &Tensor) -> Result<Tensor> {
                self.0.all_reduce_sum(x)
            }
            fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
                self.0.all_gather(x)
            }
            fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor> {
                self.0.broadcast(x, root)
            }
            fn barrier(&self) -> Result<()> {
                std::thread::sleep(Duration::from_millis(20));
                Ok(())
            }
        }
        let timed = Timed::new(std::sync::Arc::new(Slow(single())));
        timed.barrier()?;
        timed.barrier()?;
        assert!(timed.take() >= Duration::from_millis(40));
        assert_eq!(timed.take(), Duration::ZERO);
        Ok(())
    }
}
