//! The processes, and how a collective among them goes.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaStream, DriverError};
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm as Nccl, Id};
use candle_core::{CudaDevice, DType, Device, Tensor};
use contrastive_core::dist::{Comm, Communicator};
use contrastive_core::{Error, Result};

use crate::collective::{Call, Data, reason};
use crate::{Control, Failure, Launch};

/// How many GPUs this process sees: a launcher may show each process its own only.
///
/// # Errors
/// No driver.
pub fn visible() -> Result<usize> {
    let count = CudaContext::device_count();
    count.map(|n| n.max(0) as usize).map_err(|e| Error::config("device", format!("no GPUs: {e}")))
}

/// The processes that a launcher started together, one to a GPU. End it with [`World::finish`]: to the others a process
/// that leaves without is one that failed.
#[derive(Debug)]
pub struct World {
    ranks: Arc<Ranks>,
    thread: JoinHandle<()>,
}

impl World {
    /// Joins the others with the GPU `device`. `timeout` is how long a rank waits for the others in one call before it
    /// gives up; all ranks have given up after twice that time, after four times where NCCL itself hangs.
    ///
    /// # Errors
    /// A device that is no GPU, and everything that keeps ranks from meeting.
    pub fn join(launch: &Launch, device: &Device, timeout: Duration) -> Result<Self> {
        let Device::Cuda(device) = device else {
            return Err(Error::config("device", "NCCL moves tensors between GPUs: use `cuda:N`"));
        };
        let (rank, size) = (launch.rank, launch.size);
        let control = Control::join(launch, timeout)?;
        let (jobs, queue) = channel();
        let (started, joined) = channel();
        let context = device.cuda_stream().context().clone();
        let thread = std::thread::Builder::new().name("nccl".to_string());
        let thread = thread
            .spawn(move || match Process::start(control, context, timeout) {
                Ok(process) => {
                    started.send(Ok(())).unwrap_or(());
                    process.serve(&queue);
                }
                // Whoever asked has left if it cannot be told.
                Err(failure) => started.send(Err(failure)).unwrap_or(()),
            })
            .map_err(|e| Error::config("nccl", format!("cannot start its thread: {e}")))?;
        match joined.recv_timeout(timeout * 4) {
            Ok(outcome) => outcome?,
            Err(_) => return Err(Failure::of(rank, "NCCL did not start: see NCCL_DEBUG=INFO").into()),
        }
        let (jobs, broken) = (Mutex::new(jobs), Mutex::new(None));
        let ranks = Ranks { rank, size, timeout, device: device.clone(), jobs, broken };
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
            return Err(self.ranks.gone().into());
        }
        // The thread has nothing left to do; a panic of it would have closed the channel above.
        drop(self.thread);
        Ok(())
    }
}

enum Job {
    /// Ranks must agree on the text, unless it is the second half of a call on which they have; without data that is all.
    Call {
        text: String,
        agree: bool,
        call: Option<(Call, Data)>,
        reply: Sender<Reply>,
    },
    Finish(Sender<()>),
}

type Reply = Result<Option<Data>, Failure>;

struct Ranks {
    rank: usize,
    size: usize,
    timeout: Duration,
    device: CudaDevice,
    jobs: Mutex<Sender<Job>>,
    broken: Mutex<Option<Failure>>,
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {} over NCCL", self.rank, self.size)
    }
}

impl Ranks {
    fn jobs(&self) -> MutexGuard<'_, Sender<Job>> {
        // Nothing panics while it holds the lock.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) -> MutexGuard<'_, Option<Failure>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> Failure {
        Failure::of(self.rank, "its thread of NCCL is gone")
    }

    /// One call; whoever holds `jobs` is the only one who calls.
    fn call(
        &self,
        jobs: &Sender<Job>,
        text: &str,
        agree: bool,
        call: Option<(Call, Data)>,
    ) -> Result<Option<Data>> {
        if let Some(failure) = self.broken().clone() {
            return Err(failure.into());
        }
        let (reply, answer) = channel();
        let job = Job::Call { text: text.to_string(), agree, call, reply };
        jobs.send(job).map_err(|_| self.gone())?;
        let answer = answer.recv_timeout(self.timeout * 4).unwrap_or_else(|e| match e {
            RecvTimeoutError::Timeout => Err(Failure::of(self.rank, format!("{text} hangs inside NCCL"))),
            RecvTimeoutError::Disconnected => Err(self.gone()),
        });
        answer.map_err(|failure| self.broken().insert(failure).clone().into())
    }

    /// A half of a call on a tensor with numbers in it; there is room for `times` as many.
    fn moved(
        &self,
        jobs: &Sender<Job>,
        text: &str,
        agree: bool,
        call: Call,
        x: &Tensor,
        times: usize,
    ) -> Result<Tensor> {
        let data = Data::of(x, times, &self.device)?;
        // What this thread has queued is done before another one reads it.
        let context = self.device.cuda_stream().context().clone();
        context.synchronize().map_err(|e| self.driver(text, e))?;
        let n = x.elem_count() * times;
        match self.call(jobs, text, agree, Some((call, data)))? {
            Some(data) => Ok(data.tensor(&[n], &self.device)),
            None => Err(Failure::of(self.rank, format!("{text} gave nothing")).into()),
        }
    }

    fn driver(&self, text: &str, error: DriverError) -> Failure {
        Failure::of(self.rank, format!("{text}: {error}"))
    }

    /// A whole call. `halves` makes of the flat tensor on the GPU the flat outcome; the first half is to agree.
    fn tensor(
        &self,
        name: &str,
        x: &Tensor,
        rows: usize,
        halves: impl FnOnce(&Sender<Job>, &str, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let text = format!("{name} {:?} {:?}", x.dtype(), x.dims());
        let mut dims = x.dims().to_vec();
        if let Some(first) = dims.first_mut() {
            *first *= rows;
        }
        // One call at a time: the order of calls is the same on all ranks only if each makes them one by one.
        let jobs = self.jobs();
        if x.elem_count() == 0 {
            self.call(&jobs, &text, true, None)?;
            return Ok(Tensor::zeros(dims, x.dtype(), x.device())?);
        }
        let flat = x.detach().to_device(&Device::Cuda(self.device.clone()))?.flatten_all()?;
        let found = halves(&jobs, &text, &flat)?;
        Ok(found.reshape(dims)?.to_dtype(x.dtype())?.to_device(x.device())?)
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
        self.tensor("all_reduce_sum", x, 1, |jobs, text, x| {
            let (n, share) = (x.elem_count(), x.elem_count().div_ceil(self.size));
            let x = match x.dtype() {
                DType::F64 | DType::I64 | DType::U32 | DType::U8 => x.clone(),
                _ => x.to_dtype(DType::F32)?,
            };
            let x = x.pad_with_zeros(0, 0, share * self.size - n)?;
            let parts = self.moved(jobs, text, true, Call::AllToAll, &x, 1)?;
            let mut sum = parts.narrow(0, 0, share)?;
            for rank in 1..self.size {
                sum = (sum + parts.narrow(0, rank * share, share)?)?;
            }
            let all = self.moved(jobs, text, false, Call::Gather, &sum, self.size)?;
            Ok(all.narrow(0, 0, n)?.contiguous()?)
        })
    }
    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        if x.dims().is_empty() {
            return Err(Error::shape("all_gather", "[N, ...]", x.dims()));
        }
        self.tensor("all_gather", x, self.size, |jobs, text, x| {
            self.moved(jobs, text, true, Call::Gather, x, self.size)
        })
    }
    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor> {
        if root >= self.size {
            return Err(Failure::of(root, format!("broadcast from rank {root} of {}", self.size)).into());
        }
        self.tensor(&format!("broadcast from rank {root}"), x, 1, |jobs, text, x| {
            self.moved(jobs, text, true, Call::Broadcast(root), x, 1)
        })
    }
    fn barrier(&self) -> Result<()> {
        self.call(&self.jobs(), "barrier", true, None).map(drop)
    }
}

/// The side of the thread that talks to NCCL.
struct Process {
    control: Control,
    /// That thread's own.
    stream: Arc<CudaStream>,
    nccl: Nccl,
    timeout: Duration,
}

impl Process {
    fn start(mut control: Control, context: Arc<CudaContext>, timeout: Duration) -> Result<Self, Failure> {
        let rank = control.rank();
        let failed = |why: String| Failure::of(rank, format!("NCCL does not start: {why}"));
        context.bind_to_thread().map_err(|e| failed(e.to_string()))?;
        let own = match rank {
            0 => Id::new().map_err(|e| failed(reason(e)))?.internal().map(|c| c as u8).to_vec(),
            _ => Vec::new(),
        };
        let id = control.share("NCCL's start", &own)?;
        let id = <[u8; 128]>::try_from(id)
            .map_err(|id| Failure::of(0, format!("sent {} bytes as NCCL's 128", id.len())))?;
        let stream = context.per_thread_stream();
        let nccl = Nccl::from_rank(stream.clone(), rank, control.size(), Id::uninit(id.map(|b| b as _)))
            .map_err(|e| failed(reason(e)))?;
        Ok(Self { control, stream, nccl, timeout })
    }

    /// Until [`Job::Finish`], the caller's end or the first failure, which aborts NCCL and closes the connections.
    fn serve(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Finish(reply) => {
                    drop(self);
                    reply.send(()).unwrap_or(());
                    return;
                }
                Job::Call { text, agree, call, reply } => match self.call(&text, agree, call) {
                    Ok(data) => reply.send(Ok(data)).unwrap_or(()),
                    Err(failure) => {
                        drop(self);
                        reply.send(Err(failure)).unwrap_or(());
                        return;
                    }
                },
            }
        }
    }

    fn call(&mut self, text: &str, agree: bool, call: Option<(Call, Data)>) -> Reply {
        if agree {
            self.control.agree(text)?;
        }
        let Some((call, mut data)) = call else { return Ok(None) };
        let rank = self.control.rank();
        let failed = |why: String| Failure::of(rank, format!("{text}: {why}"));
        data.exchange(&self.nccl, call).map_err(failed)?;
        let over = self.stream.record_event(None).map_err(|e| failed(e.to_string()))?;
        let until = Instant::now() + self.timeout;
        let mut pause = Duration::from_micros(2);
        while !over.try_is_complete().map_err(|e| failed(e.to_string()))? {
            if Instant::now() > until {
                let seconds = self.timeout.as_secs_f32();
                return Err(Failure::of(rank, format!("{text} was not over within {seconds} s")));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
        Ok(Some(data))
    }
}
