//! The processes, and how a collective among them goes.

use std::ops::Add;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use mpi::Threading;
use mpi::datatype::Equivalence;
use mpi::request::{Request, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives, Destination, Root, Source};

use contrastive_core::dist::{Comm, Communicator};
use contrastive_core::{Error, Result};

/// What a rank calls.
const ARRIVAL: i32 = 1;
/// What rank 0 says to it.
const VERDICT: i32 = 2;

/// The processes that a launcher (`mpirun`, `srun`) started together. End it with [`World::finish`]: a process that
/// leaves without is taken for one that failed, and the launcher ends the others.
#[derive(Debug)]
pub struct World {
    ranks: Arc<Ranks>,
    thread: JoinHandle<()>,
}

impl World {
    /// Joins the others. `timeout` is how long a rank waits for the others in one call before it gives up; all ranks
    /// have given up after twice that time.
    ///
    /// # Errors
    /// [`Error::Config`] if MPI was joined before in this process.
    pub fn join(timeout: Duration) -> Result<Self> {
        let (jobs, queue) = channel();
        let (started, joined) = channel();
        let thread = std::thread::Builder::new().name("mpi".to_string());
        let thread = thread
            .spawn(move || serve(&queue, &started, timeout))
            .map_err(|e| Error::config("mpi", format!("cannot start its thread: {e}")))?;
        let Ok(Some((rank, size))) = joined.recv() else {
            return Err(Error::config("mpi", "the library is in use in this process already"));
        };
        let ranks = Ranks { rank, size, jobs: Mutex::new(jobs), broken: Mutex::new(None) };
        Ok(Self { ranks: Arc::new(ranks), thread })
    }

    /// A handle of this rank.
    pub fn comm(&self) -> Comm {
        self.ranks.clone()
    }

    /// Leaves together with the others.
    ///
    /// # Errors
    /// A rank that does not come.
    pub fn finish(self) -> Result<()> {
        self.ranks.barrier()?;
        let (reply, done) = channel();
        if self.ranks.jobs().send(Job::Finish(reply)).is_err() || done.recv().is_err() {
            return Err(Failure::of(self.ranks.rank, "its thread of MPI is gone").into());
        }
        // The thread has nothing left to do; a panic of it would have closed the channel above.
        drop(self.thread);
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct Failure {
    rank: usize,
    reason: String,
}

impl Failure {
    fn of(rank: usize, reason: impl Into<String>) -> Self {
        Self { rank, reason: reason.into() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Error::Rank { rank: failure.rank, reason: failure.reason }
    }
}

/// Numbers on their way.
#[derive(Debug)]
enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    I64(Vec<i64>),
    U32(Vec<u32>),
    U8(Vec<u8>),
}

impl Data {
    fn of(x: &Tensor) -> Result<Self> {
        let x = x.flatten_all()?;
        Ok(match x.dtype() {
            DType::F64 => Self::F64(x.to_vec1()?),
            DType::I64 => Self::I64(x.to_vec1()?),
            DType::U32 => Self::U32(x.to_vec1()?),
            DType::U8 => Self::U8(x.to_vec1()?),
            // Exact for the half types, whose sums gain from it.
            _ => Self::F32(x.to_dtype(DType::F32)?.to_vec1()?),
        })
    }

    fn tensor(self, dims: &[usize], like: &Tensor) -> Result<Tensor> {
        let cpu = &Device::Cpu;
        let x = match self {
            Self::F32(v) => Tensor::from_vec(v, dims, cpu),
            Self::F64(v) => Tensor::from_vec(v, dims, cpu),
            Self::I64(v) => Tensor::from_vec(v, dims, cpu),
            Self::U32(v) => Tensor::from_vec(v, dims, cpu),
            Self::U8(v) => Tensor::from_vec(v, dims, cpu),
        }?;
        Ok(x.to_dtype(like.dtype())?.to_device(like.device())?)
    }
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Sum,
    Gather,
    Broadcast(usize),
}

enum Job {
    /// Ranks must agree on the text; without data that is all (a barrier).
    Call {
        text: String,
        call: Option<(Call, Data)>,
        reply: Sender<Result<Option<Data>, Failure>>,
    },
    Finish(Sender<()>),
}

#[derive(Debug)]
struct Ranks {
    rank: usize,
    size: usize,
    jobs: Mutex<Sender<Job>>,
    broken: Mutex<Option<Failure>>,
}

impl Ranks {
    fn jobs(&self) -> MutexGuard<'_, Sender<Job>> {
        // Nothing panics while it holds the lock.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) -> MutexGuard<'_, Option<Failure>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, text: String, call: Option<(Call, Data)>) -> Result<Option<Data>> {
        // One call at a time: the order of calls is the same on all ranks only if each makes them one by one.
        let jobs = self.jobs();
        if let Some(failure) = self.broken().clone() {
            return Err(failure.into());
        }
        let gone = || Failure::of(self.rank, "its thread of MPI is gone");
        let (reply, answer) = channel();
        jobs.send(Job::Call { text, call, reply }).map_err(|_| gone())?;
        let answer = answer.recv().unwrap_or_else(|_| Err(gone()));
        answer.map_err(|failure| self.broken().insert(failure).clone().into())
    }

    /// A call with a tensor; `rows` are its outcome's along the first dimension for each of the tensor's own.
    fn tensor(&self, name: &str, call: Call, x: &Tensor, rows: usize) -> Result<Tensor> {
        let text = format!("{name} {:?} {:?}", x.dtype(), x.dims());
        let mut dims = x.dims().to_vec();
        if let Some(first) = dims.first_mut() {
            *first *= rows;
        }
        match self.call(text, Some((call, Data::of(x)?)))? {
            Some(data) => data.tensor(&dims, x),
            None => Err(Failure::of(self.rank, format!("{name} gave nothing")).into()),
        }
    }
}

impl Communicator for Ranks {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    fn all_reduce_sum(&self, x: &Tensor) -> Result<Tensor> {
        self.tensor("all_reduce_sum", Call::Sum, x, 1)
    }
    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        if x.dims().is_empty() {
            return Err(Error::shape("all_gather", "[N, ...]", x.dims()));
        }
        self.tensor("all_gather", Call::Gather, x, self.size)
    }
    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor> {
        if root >= self.size {
            return Err(Failure::of(root, format!("broadcast from rank {root} of {}", self.size)).into());
        }
        self.tensor(&format!("broadcast from rank {root}"), Call::Broadcast(root), x, 1)
    }
    fn barrier(&self) -> Result<()> {
        self.call("barrier".to_string(), None).map(drop)
    }
}

/// The thread that talks to MPI.
fn serve(jobs: &Receiver<Job>, started: &Sender<Option<(usize, usize)>>, timeout: Duration) {
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
        // Whoever asked has left if it cannot be told.
        started.send(None).unwrap_or(());
        return;
    };
    let world = Process { world: universe.world(), timeout };
    started.send(Some((world.rank(), world.size()))).unwrap_or(());
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Finish(reply) => {
                drop(universe);
                reply.send(()).unwrap_or(());
                return;
            }
            Job::Call { text, call, reply } => {
                let outcome = world.agree(&text).and_then(|()| {
                    let give_up = |failure: &Failure| reply.send(Err(failure.clone())).unwrap_or(());
                    call.map(|(call, data)| world.exchange(&text, call, data, &give_up)).transpose()
                });
                reply.send(outcome).unwrap_or(());
            }
        }
    }
    // Nobody said `finish`, so other ranks may never come to a finalisation, which would wait for them.
    std::mem::forget(universe);
}

struct Process {
    world: SimpleCommunicator,
    timeout: Duration,
}

/// Sleeps a little longer each time, up to a millisecond: collectives of small tensors are over in microseconds, and a
/// rank that computes needs the core.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    fn new(time: Duration) -> Self {
        Self { until: Instant::now() + time, pause: Duration::from_micros(2) }
    }

    /// Whether there is time left.
    fn wait(&mut self) -> bool {
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(Duration::from_millis(1));
        Instant::now() < self.until
    }
}

impl Process {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn send(&self, rank: usize, tag: i32, text: &str) {
        // Some dozen bytes: MPI takes a copy at once.
        self.world.process_at_rank(rank as i32).send_with_tag(text.as_bytes(), tag);
    }

    fn received(&self, rank: usize, tag: i32) -> Option<String> {
        let process = self.world.process_at_rank(rank as i32);
        process.immediate_probe_with_tag(tag)?;
        let (bytes, _) = process.receive_vec_with_tag::<u8>(tag);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Returns when all ranks have come to the same call.
    fn agree(&self, text: &str) -> Result<(), Failure> {
        if self.size() == 1 {
            return Ok(());
        }
        if self.rank() == 0 {
            let verdict = self.collect(text);
            let said =
                verdict.as_ref().map_or_else(|f| format!("{} {}", f.rank, f.reason), |()| String::new());
            (1..self.size()).for_each(|rank| self.send(rank, VERDICT, &said));
            return verdict;
        }
        self.send(0, ARRIVAL, text);
        // Rank 0 may have begun to wait for another one as late as that.
        let mut patience = Patience::new(self.timeout * 2);
        loop {
            if let Some(said) = self.received(0, VERDICT) {
                let Some((rank, reason)) = said.split_once(' ') else { return Ok(()) };
                return Err(Failure::of(rank.parse().unwrap_or(0), reason));
            }
            if !patience.wait() {
                return Err(self.late(0, text, 2));
            }
        }
    }

    fn late(&self, rank: usize, text: &str, times: u32) -> Failure {
        let seconds = (self.timeout * times).as_secs_f32();
        Failure::of(rank, format!("did not come to {text} within {seconds} s"))
    }

    fn collect(&self, text: &str) -> Result<(), Failure> {
        let mut come = vec![false; self.size()];
        come[0] = true;
        let mut patience = Patience::new(self.timeout);
        loop {
            for (rank, come) in come.iter_mut().enumerate().filter(|(_, come)| !**come) {
                if let Some(other) = self.received(rank, ARRIVAL) {
                    *come = true;
                    if other != text {
                        return Err(Failure::of(rank, format!("called {other} where rank 0 called {text}")));
                    }
                }
            }
            match come.iter().position(|come| !come) {
                None => return Ok(()),
                Some(rank) if !patience.wait() => return Err(self.late(rank, text, 1)),
                Some(_) => {}
            }
        }
    }

    fn exchange(
        &self,
        text: &str,
        call: Call,
        data: Data,
        give_up: &dyn Fn(&Failure),
    ) -> Result<Data, Failure> {
        let stuck =
            || give_up(&Failure::of(self.rank(), format!("{text} was not over within {:?}", self.timeout)));
        match data {
            Data::F32(x) => self.numbers(call, x, &stuck).map(Data::F32),
            Data::F64(x) => self.numbers(call, x, &stuck).map(Data::F64),
            Data::I64(x) => self.numbers(call, x, &stuck).map(Data::I64),
            Data::U32(x) => self.numbers(call, x, &stuck).map(Data::U32),
            Data::U8(x) => self.numbers(call, x, &stuck).map(Data::U8),
        }
    }

    fn numbers<T>(&self, call: Call, x: Vec<T>, stuck: &dyn Fn()) -> Result<Vec<T>, Failure>
    where
        T: Equivalence + Copy + Default + Add<Output = T>,
    {
        let (rank, size) = (self.rank(), self.size());
        if x.len().saturating_mul(size) > i32::MAX as usize {
            return Err(Failure::of(rank, format!("{} numbers are more than MPI can count", x.len())));
        }
        match call {
            Call::Gather => Ok(self.gather(&x, stuck)),
            Call::Broadcast(root) => {
                let mut x = x;
                let root = self.world.process_at_rank(root as i32);
                scope(|s| self.end(root.immediate_broadcast_into(s, x.as_mut_slice()), stuck));
                Ok(x)
            }
            Call::Sum => {
                let n = x.len();
                let share = n.div_ceil(size);
                let mut out = x;
                out.resize(share * size, T::default());
                let mut parts = vec![T::default(); share * size];
                scope(|s| self.end(self.world.immediate_all_to_all_into(s, &out[..], &mut parts[..]), stuck));
                let (sum, rest) = parts.split_at_mut(share);
                for part in rest.chunks_exact(share.max(1)) {
                    sum.iter_mut().zip(part).for_each(|(a, b)| *a = *a + *b);
                }
                let mut whole = self.gather(sum, stuck);
                whole.truncate(n);
                Ok(whole)
            }
        }
    }

    fn gather<T: Equivalence + Copy + Default>(&self, x: &[T], stuck: &dyn Fn()) -> Vec<T> {
        let mut all = vec![T::default(); x.len() * self.size()];
        scope(|s| self.end(self.world.immediate_all_gather_into(s, x, &mut all[..]), stuck));
        all
    }

    /// Waits for a request. One that does not end keeps its buffers, and this thread with them, until the process ends:
    /// MPI may still write there. Whoever waits is told first.
    fn end<'a, D: ?Sized, S: mpi::request::Scope<'a>>(
        &self,
        mut request: Request<'a, D, S>,
        stuck: &dyn Fn(),
    ) {
        let mut patience = Patience::new(self.timeout);
        let mut told = false;
        loop {
            match request.test() {
                Ok(_) => return,
                Err(unfinished) => request = unfinished,
            }
            if !patience.wait() && !std::mem::replace(&mut told, true) {
                stuck();
            }
        }
    }
}
