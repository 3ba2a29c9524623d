//! Ranks as threads of one process.
//!
//! Every collective is a round: each rank deposits its tensor, the last one to come computes the outcome in rank
//! order, every rank takes a copy. A rank whose handle is dropped (also by a panic that unwinds its thread) ends the
//! round for those that wait for it, and a time-out ends it when a rank simply never comes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candle_core::Tensor;

use super::{Comm, Communicator};
use crate::{Error, Result};

/// How long a rank waits for the others unless said otherwise: ten minutes, long enough for the slowest batch.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// Deep graphs recurse in the backward pass, more than a thread's usual 2 MiB of stack can hold.
const STACK_BYTES: usize = 64 << 20;

/// `size` ranks of this process, one handle each in rank order. Move each handle into its own thread and keep no
/// other copy: a rank counts as gone when its last handle is dropped.
///
/// Sums are added in rank order, so all ranks get the same bytes whoever comes first.
pub fn in_process(size: usize) -> Vec<Comm> {
    in_process_with_timeout(size, DEFAULT_TIMEOUT)
}

/// As [`in_process`], with the time a rank waits for the others in one call before it gives up.
pub fn in_process_with_timeout(size: usize, timeout: Duration) -> Vec<Comm> {
    let shared = Arc::new(Shared {
        size,
        timeout,
        state: Mutex::new(State {
            deposits: vec![None; size],
            outcome: None,
            takers: 0,
            gone: vec![None; size],
            broken: None,
        }),
        changed: Condvar::new(),
    });
    (0..size).map(|rank| Arc::new(InProcess { rank, shared: shared.clone() }) as Comm).collect()
}

/// Runs `body` once per rank, each on its own thread, and returns the results in rank order.
///
/// # Errors
/// The first rank's error that is not the mere echo of another rank's absence, or a rank that panicked.
pub fn run_in_process<T: Send>(size: usize, body: impl Fn(Comm) -> Result<T> + Sync) -> Result<Vec<T>> {
    run_in_process_with_timeout(size, DEFAULT_TIMEOUT, body)
}

/// As [`run_in_process`], with the time a rank waits for the others in one call before it gives up.
///
/// # Errors
/// As [`run_in_process`].
pub fn run_in_process_with_timeout<T: Send>(
    size: usize,
    timeout: Duration,
    body: impl Fn(Comm) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let body = &body;
    let results = std::thread::scope(|scope| {
        let spawned: Vec<_> = in_process_with_timeout(size, timeout)
            .into_iter()
            .map(|comm| {
                let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
                builder.spawn_scoped(scope, move || body(comm))
            })
            .collect();
        let mut results = Vec::with_capacity(size);
        for (rank, spawned) in spawned.into_iter().enumerate() {
            results.push(match spawned {
                Ok(thread) => thread.join().unwrap_or_else(|_| Err(fault(rank, "panicked"))),
                Err(source) => Err(fault(rank, format!("cannot start its thread: {source}"))),
            });
        }
        results
    });
    // The rank that failed first says why; the others only say that it is gone.
    let mut echo = None;
    let mut values = Vec::with_capacity(size);
    for (rank, result) in results.into_iter().enumerate() {
        match result {
            Ok(value) => values.push(value),
            Err(Error::Rank { rank: other, reason }) if other != rank => {
                echo.get_or_insert(Error::Rank { rank: other, reason });
            }
            Err(cause) => return Err(cause),
        }
    }
    echo.map_or(Ok(values), Err)
}

fn fault(rank: usize, reason: impl Into<String>) -> Error {
    Error::Rank { rank, reason: reason.into() }
}

/// A collective; ranks of one round must agree on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    AllReduceSum,
    AllGather,
    Broadcast { root: usize },
    Barrier,
}

impl Call {
    fn name(self) -> String {
        match self {
            Call::AllReduceSum => "all_reduce_sum".into(),
            Call::AllGather => "all_gather".into(),
            Call::Broadcast { root } => format!("broadcast from rank {root}"),
            Call::Barrier => "barrier".into(),
        }
    }
}

/// Why a round failed, in a form that every rank can take (errors themselves cannot be cloned).
#[derive(Debug, Clone)]
struct Failure {
    rank: usize,
    reason: String,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        fault(failure.rank, failure.reason)
    }
}

#[derive(Debug)]
struct State {
    /// What each rank brought to the round that is being collected.
    deposits: Vec<Option<(Call, Option<Tensor>)>>,
    /// The outcome of the round that is being handed out.
    outcome: Option<Result<Option<Tensor>, Failure>>,
    /// How many ranks have yet to take the outcome.
    takers: usize,
    /// Ranks whose handle is gone, and how they went.
    gone: Vec<Option<&'static str>>,
    /// Set once a rank gave up waiting: the ranks are no longer in step and every further call fails.
    broken: Option<Failure>,
}

#[derive(Debug)]
struct Shared {
    size: usize,
    timeout: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; a poisoned lock still guards consistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct InProcess {
    rank: usize,
    shared: Arc<Shared>,
}

impl InProcess {
    fn call(&self, call: Call, x: Option<&Tensor>) -> Result<Option<Tensor>> {
        // On a GPU each thread has a queue of its own: what this one has queued is done before another one reads it.
        x.map_or(Ok(()), settled)?;
        let deadline = Instant::now() + self.shared.timeout;
        let mut state = self.shared.lock();
        // The previous round may still be handed out to slower ranks.
        while state.outcome.is_some() {
            state = self.wait(state, call, deadline)?;
        }
        if let Some(failure) = &state.broken {
            return Err(failure.clone().into());
        }
        state.deposits[self.rank] = Some((call, x.map(Tensor::detach)));
        if state.deposits.iter().all(Option::is_some) {
            let deposits: Vec<_> = state.deposits.iter_mut().filter_map(Option::take).collect();
            state.outcome = Some(combine(&deposits));
            state.takers = self.shared.size;
            self.shared.changed.notify_all();
        }
        loop {
            if let Some(outcome) = &state.outcome {
                let outcome = outcome.clone();
                state.takers -= 1;
                if state.takers == 0 {
                    state.outcome = None;
                    self.shared.changed.notify_all();
                }
                drop(state);
                // A copy, not a view: one rank's in-place update must not reach the others.
                let (Some(value), Some(x)) = (outcome?, x) else { return Ok(None) };
                let own = value.copy()?.to_device(x.device())?;
                // The last of all ranks to let go of the outcome gives its memory back.
                settled(&own)?;
                return Ok(Some(own));
            }
            state = self.wait(state, call, deadline)?;
        }
    }

    /// Sleeps until something changes. Fails when the round cannot end: a rank that is gone, a time-out.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        call: Call,
        deadline: Instant,
    ) -> Result<MutexGuard<'a, State>> {
        if state.outcome.is_none()
            && let Some(rank) = (0..self.shared.size)
                .find(|&rank| state.gone[rank].is_some() && state.deposits[rank].is_none())
        {
            let how = state.gone[rank].unwrap_or("left");
            let failure = Failure { rank, reason: format!("{how} before {}", call.name()) };
            state.broken.get_or_insert(failure);
        }
        if state.outcome.is_none()
            && let Some(failure) = &state.broken
        {
            return Err(failure.clone().into());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let late = (0..self.shared.size).find(|&rank| state.deposits[rank].is_none());
            let failure = Failure {
                rank: late.unwrap_or(self.rank),
                reason: format!(
                    "did not come to {} within {} s (rank {} waited)",
                    call.name(),
                    self.shared.timeout.as_secs_f32(),
                    self.rank
                ),
            };
            let failure = state.broken.get_or_insert(failure).clone();
            self.shared.changed.notify_all();
            return Err(failure.into());
        }
        Ok(self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    fn tensor(&self, call: Call, x: &Tensor) -> Result<Tensor> {
        self.call(call, Some(x))?.ok_or_else(|| fault(self.rank, format!("{} gave no tensor", call.name())))
    }
}

/// Returns when the device has done what this thread has queued; at once on the CPU.
fn settled(x: &Tensor) -> Result<()> {
    Ok(x.device().synchronize()?)
}

/// The outcome of a full round; `deposits` are in rank order.
fn combine(deposits: &[(Call, Option<Tensor>)]) -> Result<Option<Tensor>, Failure> {
    let Some((call, _)) = deposits.first() else {
        return Ok(None);
    };
    for (rank, (other, _)) in deposits.iter().enumerate() {
        if other != call {
            let reason = format!("called {} where rank 0 called {}", other.name(), call.name());
            return Err(Failure { rank, reason });
        }
    }
    let tensors: Vec<&Tensor> = deposits.iter().filter_map(|(_, x)| x.as_ref()).collect();
    for (rank, x) in tensors.iter().enumerate() {
        if x.dims() != tensors[0].dims() || x.dtype() != tensors[0].dtype() {
            let reason = format!(
                "{}: brought {:?} {:?} where rank 0 brought {:?} {:?}",
                call.name(),
                x.dtype(),
                x.dims(),
                tensors[0].dtype(),
                tensors[0].dims()
            );
            return Err(Failure { rank, reason });
        }
    }
    let failed = |e: Error| Failure { rank: 0, reason: format!("{}: {e}", call.name()) };
    // Ranks on several GPUs: the outcome is made on the first one's.
    let here: Vec<Tensor> = tensors
        .iter()
        .map(|x| Ok(x.to_device(tensors[0].device())?))
        .collect::<Result<_>>()
        .map_err(failed)?;
    let tensors: Vec<&Tensor> = here.iter().collect();
    let value = match call {
        Call::Barrier => return Ok(None),
        Call::AllReduceSum => tensors[1..].iter().try_fold(tensors[0].clone(), |sum, x| &sum + *x),
        Call::AllGather => Tensor::cat(&tensors, 0),
        Call::Broadcast { root } => match tensors.get(*root) {
            Some(x) => Ok((*x).clone()),
            None => {
                let reason = format!("broadcast from rank {root} of {}", tensors.len());
                return Err(Failure { rank: *root, reason });
            }
        },
    };
    // The owner of a deposit may change it in place as soon as the round ends, before slower ranks have taken theirs.
    let aliased = tensors.len() == 1 || matches!(call, Call::Broadcast { .. });
    let value = if aliased { value.and_then(|x| x.copy()) } else { value };
    let value = value.map_err(|e| failed(e.into()))?;
    settled(&value).map_err(failed)?;
    Ok(Some(value))
}

impl Communicator for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.shared.size
    }
    fn all_reduce_sum(&self, x: &Tensor) -> Result<Tensor> {
        self.tensor(Call::AllReduceSum, x)
    }
    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        self.tensor(Call::AllGather, x)
    }
    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor> {
        self.tensor(Call::Broadcast { root }, x)
    }
    fn barrier(&self) -> Result<()> {
        self.call(Call::Barrier, None).map(drop)
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        let how = if std::thread::panicking() { "panicked" } else { "left" };
        self.shared.lock().gone[self.rank] = Some(how);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    fn vector(rank: usize, n: usize) -> Result<Tensor> {
        let data: Vec<f32> = (0..n).map(|i| ((i * 7 + rank * 13) as f32 * 0.37).sin() * 1e3).collect();
        Ok(Tensor::from_vec(data, n, &Device::Cpu)?)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn collectives_are_right_and_equal_on_all_ranks(size in 1usize..6, n in 1usize..40, root in 0usize..6) {
            let root = root % size;
            let results = run_in_process(size, |comm| {
                let x = vector(comm.rank(), n)?;
                let mut all = Vec::new();
                for _ in 0..3 {
                    comm.barrier()?;
                    all.push(comm.all_reduce_sum(&x)?.to_vec1::<f32>()?);
                    all.push(comm.all_gather(&x)?.to_vec1::<f32>()?);
                    all.push(comm.broadcast(&x, root)?.to_vec1::<f32>()?);
                }
                Ok(all)
            }).unwrap();
            let inputs: Vec<Vec<f32>> =
                (0..size).map(|r| vector(r, n).unwrap().to_vec1().unwrap()).collect();
            let sum: Vec<f32> = (0..n).map(|i| inputs[1..].iter().fold(inputs[0][i], |s, x| s + x[i])).collect();
            for all in &results {
                for round in all.chunks(3) {
                    prop_assert_eq!(&round[0], &sum);
                    prop_assert_eq!(&round[1], &inputs.concat());
                    prop_assert_eq!(&round[2], &inputs[root]);
                }
            }
        }
    }

    #[test]
    fn mismatches_are_named_and_the_ranks_stay_in_step() {
        run_in_process(3, |comm| {
            let x = vector(0, 2 + usize::from(comm.rank() == 2))?;
            let error = comm.all_reduce_sum(&x).unwrap_err().to_string();
            assert!(error.contains("rank 2") && error.contains("[3]") && error.contains("[2]"), "{error}");
            let error = if comm.rank() == 1 { comm.barrier() } else { comm.all_gather(&x).map(drop) };
            let error = error.unwrap_err().to_string();
            assert!(error.contains("rank 1: called barrier where rank 0 called all_gather"), "{error}");
            assert!(comm.broadcast(&vector(0, 1)?, 7).is_err());
            comm.barrier()
        })
        .unwrap();
    }

    #[test]
    fn a_rank_that_leaves_fails_or_panics_ends_the_wait() {
        let error = run_in_process(3, |comm| {
            if comm.rank() == 1 {
                return Ok(());
            }
            comm.barrier()
        });
        assert_eq!(error.unwrap_err().to_string(), "rank 1: left before barrier");

        let error = run_in_process(2, |comm| {
            if comm.rank() == 1 {
                return Err(Error::data("batch", "torn"));
            }
            comm.barrier()
        });
        assert_eq!(error.unwrap_err().to_string(), "batch: torn", "the cause, not its echo");

        let error = run_in_process(2, |comm| {
            assert!(comm.rank() == 0, "planted");
            let error = comm.barrier().unwrap_err();
            assert!(error.to_string().contains("rank 1: panicked before barrier"), "{error}");
            assert!(comm.barrier().is_err(), "and stays gone");
            Ok(())
        });
        assert_eq!(error.unwrap_err().to_string(), "rank 1: panicked");
    }

    #[test]
    fn a_rank_that_deposits_and_leaves_completes_the_round() {
        let results = run_in_process(4, |comm| comm.all_gather(&vector(comm.rank(), 3)?)).unwrap();
        assert_eq!(results.len(), 4);
    }

    #[test]
    fn the_time_out_names_the_missing_rank() {
        let mut comms = in_process_with_timeout(2, Duration::from_millis(50));
        let idle = comms.pop().unwrap();
        let error = comms[0].barrier().unwrap_err().to_string();
        assert!(error.contains("rank 1: did not come to barrier within 0.05 s"), "{error}");
        assert!(idle.barrier().is_err(), "out of step for good");
    }

    #[test]
    fn no_rank_shares_memory_with_another() {
        let results = run_in_process(2, |comm| {
            let mine = candle_core::Var::from_tensor(&vector(comm.rank(), 4)?)?;
            let got = comm.broadcast(mine.as_tensor(), 0)?;
            mine.set(&Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu)?)?;
            comm.barrier()?;
            Ok(got.to_vec1::<f32>()?)
        })
        .unwrap();
        assert_eq!(results[1], vector(0, 4).unwrap().to_vec1::<f32>().unwrap());
    }
}
