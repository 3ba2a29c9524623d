//! Several ranks in one process: they learn the same and leave together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::toy::*;
use super::*;
use crate::dist::{Comm, in_process};
use crate::{Error, Result};

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
    let rank = |comm: Comm| {
        let rank = comm.rank();
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
        let rank = &rank;
        let threads: Vec<_> = in_process(2).into_iter().map(|comm| scope.spawn(move || rank(comm))).collect();
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
