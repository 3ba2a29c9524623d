//! Several ranks in one process: they learn the same and leave together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use candle_core::Tensor;

use super::toy::*;
use super::*;
use crate::dist::{Comm, Communicator};
use crate::{Error, Result};

#[derive(Debug)]
struct Shared {
    slots: Mutex<Vec<Option<Tensor>>>,
    barrier: Barrier,
}

/// Sums in rank order behind a barrier. Only what the loop itself needs.
#[derive(Debug)]
struct ThreadRank {
    rank: usize,
    shared: Arc<Shared>,
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.shared.slots.lock().unwrap().len()
    }
    fn all_reduce_sum(&self, x: &Tensor) -> Result<Tensor> {
        self.shared.slots.lock().unwrap()[self.rank] = Some(x.detach());
        self.shared.barrier.wait();
        let all: Vec<Tensor> = self.shared.slots.lock().unwrap().iter().flatten().cloned().collect();
        self.shared.barrier.wait();
        let (first, rest) = all.split_first().unwrap();
        rest.iter().try_fold(first.clone(), |sum, x| Ok((sum + x)?))
    }
    fn all_gather(&self, _: &Tensor) -> Result<Tensor> {
        Err(Error::data("test", "no gather"))
    }
    fn broadcast(&self, _: &Tensor, _: usize) -> Result<Tensor> {
        Err(Error::data("test", "no broadcast"))
    }
    fn barrier(&self) -> Result<()> {
        self.shared.barrier.wait();
        Ok(())
    }
}

struct StopAt(u64, Arc<AtomicBool>, Arc<Mutex<Vec<u64>>>);

impl Observer for StopAt {
    fn on_step(&mut self, record: &StepRecord<'_>, _: &mut Notes) -> Result<()> {
        self.2.lock().unwrap().push(record.progress.step);
        if record.progress.step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Runs two ranks; `stop` and `broken` concern rank 1 alone. Gives weights or error, and the steps seen, of each.
#[allow(clippy::type_complexity)]
fn two_ranks(stop: u64, broken: u64) -> Vec<(Result<(Vec<Vec<f32>>, Outcome)>, Vec<u64>)> {
    let shared = Arc::new(Shared { slots: Mutex::new(vec![None; 2]), barrier: Barrier::new(2) });
    let rank = |rank: usize| {
        let comm: Comm = Arc::new(ThreadRank { rank, shared: shared.clone() });
        let flag = Arc::new(AtomicBool::new(false));
        let steps = Arc::new(Mutex::new(Vec::new()));
        let at = if rank == 1 { stop } else { u64::MAX };
        let mut observer = StopAt(at, flag.clone(), steps.clone());
        let batches =
            ToyBatches { broken_from: if rank == 1 { broken } else { u64::MAX }, ..ToyBatches::default() };
        let run = || -> Result<_> {
            let mut method = ToyMethod::new(0)?;
            let mut optimizer = ToySgd::new(method.params())?;
            let outcome = Trainer::new(&mut method, &mut optimizer, &batches, &lr, config())
                .comm(comm)
                .stop_flag(flag)
                .observer(&mut observer)
                .run()?;
            Ok((method.params().tensors()[0].1.to_vec2::<f32>()?, outcome))
        };
        let result = run();
        let steps = steps.lock().unwrap().clone();
        (result, steps)
    };
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|r| scope.spawn(move || rank(r)));
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn equal_ranks_equal_one_rank() -> Result<()> {
    // Both ranks see the same data, so the mean of their gradients is each one's gradient, to the last bit.
    let (alone, _) = train(None, &config(), &ToyBatches::default(), |t| t)?;
    let alone = alone.params().tensors()[0].1.to_vec2::<f32>()?;
    for (result, steps) in two_ranks(u64::MAX, u64::MAX) {
        let (weights, outcome) = result?;
        assert_eq!((weights, outcome, steps.len()), (alone.clone(), Outcome::Finished, 20));
    }
    Ok(())
}

#[test]
fn a_stop_on_one_rank_stops_all_after_the_same_step() -> Result<()> {
    for (result, steps) in two_ranks(6, u64::MAX) {
        assert_eq!((result?.1, steps.last()), (Outcome::Interrupted, Some(&6)));
    }
    Ok(())
}

#[test]
fn a_broken_rank_ends_all() {
    for (result, steps) in two_ranks(u64::MAX, 8) {
        assert!(matches!(result, Err(Error::NonFinite { step: 8, .. })));
        assert_eq!(steps.last(), Some(&7));
    }
}
