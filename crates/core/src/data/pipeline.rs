//! The threads of a loader: samples are prepared in any order by any worker, batches come out in order.
//!
//! A worker takes one sample at a time, so that a slow image delays only itself. The worker that finishes the last
//! sample of a batch copies the batch together (one copy per value); the consumer only hands it on.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::rng::Key;
use crate::{Error, Result};

use super::{Array, Batch, Skipped, Source, Transform};

/// What the workers share.
pub(super) struct Job<S, T> {
    pub source: Arc<S>,
    pub transform: Arc<T>,
    /// Seed, purpose and epoch; the sample's index is put in.
    pub key: Key,
    /// Whether the next sample takes the place of one that cannot be used; otherwise the batch gets smaller.
    pub replace: bool,
    pub skipped: Skipped,
}

struct Prepared {
    index: usize,
    label: Option<u32>,
    views: Vec<Array>,
}

impl<S: Source, T: Transform<S::Sample>> Job<S, T> {
    /// The sample at `index` or, with `replace`, the next one (cyclically) that can be used.
    fn prepare(&self, index: usize) -> Result<Option<Prepared>> {
        let count = self.source.len();
        for offset in 0..if self.replace { count } else { 1 } {
            let candidate = (index + offset) % count;
            if self.skipped.is_unreadable(candidate) {
                continue;
            }
            let refused = match self.source.sample(candidate) {
                Ok(sample) => match self.transform.apply(&sample, self.key.sample(candidate as u64)) {
                    Ok(views) => {
                        let label = self.source.label(candidate);
                        return Ok(Some(Prepared { index: candidate, label, views }));
                    }
                    Err(error) => (error, false),
                },
                Err(error) => (error, true),
            };
            match refused {
                (error @ (Error::Data { .. } | Error::Format { .. } | Error::Io { .. }), unreadable) => {
                    let name = self.source.sample_name(candidate);
                    self.skipped.add(candidate, name, error.to_string(), unreadable);
                }
                // A shape, a setting or Candle: the fault of the program, not of the sample.
                (error, _) => return Err(error),
            }
        }
        if self.replace { Err(self.none_usable()) } else { Ok(None) }
    }

    fn none_usable(&self) -> Error {
        let (name, reason) = self.skipped.first().unwrap_or_default();
        let count = self.source.len();
        let reason = format!("none of the {count} samples can be used; {name}: {reason}");
        Error::data(self.source.name(), reason)
    }

    /// [`Self::prepare`], where a panic becomes an error: a worker that dies silently would leave the consumer waiting.
    fn prepare_guarded(&self, index: usize) -> Result<Option<Prepared>> {
        catch_unwind(AssertUnwindSafe(|| self.prepare(index))).unwrap_or_else(|panic| {
            let reason = format!("a loader worker panicked: {}", panic_text(panic.as_ref()));
            Err(Error::data(self.source.sample_name(index), reason))
        })
    }

    /// Copies samples into one tensor per view; `None` if there are none.
    fn assemble(&self, mut samples: Vec<Prepared>) -> Result<Option<Batch>> {
        let Some(first) = samples.first() else {
            return Ok(None);
        };
        let shapes: Vec<Vec<usize>> = first.views.iter().map(|view| view.shape.clone()).collect();
        if shapes.is_empty() {
            return Err(Error::data(self.source.name(), "the transform gives no views"));
        }
        for sample in &samples {
            self.check(sample, &shapes)?;
        }
        let mut views = Vec::with_capacity(shapes.len());
        for (v, shape) in shapes.iter().enumerate() {
            let mut buffer = Vec::with_capacity(samples.len() * shape.iter().product::<usize>());
            for sample in &mut samples {
                // Taken, so that the memory of each sample goes as the batch grows.
                buffer.extend_from_slice(&std::mem::take(&mut sample.views[v].data));
            }
            let dims: Vec<usize> = std::iter::once(samples.len()).chain(shape.iter().copied()).collect();
            views.push(Tensor::from_vec(buffer, dims, &Device::Cpu)?);
        }
        let indices = samples.iter().map(|sample| sample.index as u64).collect();
        let labels = samples.iter().map(|sample| sample.label).collect();
        Ok(Some(Batch { views, indices, labels }))
    }

    fn check(&self, sample: &Prepared, shapes: &[Vec<usize>]) -> Result<()> {
        let bad = |reason: String| Err(Error::data(self.source.sample_name(sample.index), reason));
        if sample.views.len() != shapes.len() {
            return bad(format!("{} views in a batch of samples with {}", sample.views.len(), shapes.len()));
        }
        for (v, (view, shape)) in sample.views.iter().zip(shapes).enumerate() {
            if view.shape != *shape {
                let reason = format!("view {v} has shape {:?} in a batch of shape {shape:?}", view.shape);
                return bad(format!("{reason}: resize and crop all images to one size"));
            }
            if view.data.len() != shape.iter().product::<usize>() {
                return bad(format!("view {v} has {} values for shape {shape:?}", view.data.len()));
            }
        }
        Ok(())
    }
}

/// A panic's message on one line.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The indices of one batch after another.
pub(super) type Plan = Box<dyn Iterator<Item = Vec<usize>> + Send>;

/// Batches in the order of the plan. Ends after the first error.
pub(super) struct Batcher<S, T> {
    job: Arc<Job<S, T>>,
    plan: Plan,
    pool: Option<Pool>,
    yielded: bool,
    ended: bool,
}

impl<S: Source + 'static, T: Transform<S::Sample> + 'static> Batcher<S, T> {
    /// With no workers everything happens in the consumer's thread. `prefetch` batches are in the making at a time.
    pub fn new(job: Job<S, T>, plan: Plan, workers: usize, prefetch: usize) -> Self {
        let job = Arc::new(job);
        let pool = Pool::start(&job, workers, prefetch);
        Self { job, plan, pool, yielded: false, ended: false }
    }

    fn next_batch(&mut self) -> Option<Result<Option<Batch>>> {
        if let Some(pool) = &mut self.pool {
            return pool.next(&mut self.plan);
        }
        let indices = self.plan.next()?;
        let samples: Result<Vec<Option<Prepared>>> =
            indices.into_iter().map(|index| self.job.prepare_guarded(index)).collect();
        Some(samples.and_then(|samples| self.job.assemble(samples.into_iter().flatten().collect())))
    }
}

impl<S: Source + 'static, T: Transform<S::Sample> + 'static> Iterator for Batcher<S, T> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let item = match self.next_batch() {
                Some(Ok(Some(batch))) => {
                    self.yielded = true;
                    return Some(Ok(batch));
                }
                // Every sample of it was left out.
                Some(Ok(None)) => continue,
                Some(Err(error)) => Some(Err(error)),
                None if !self.yielded && self.job.skipped.count() > 0 => Some(Err(self.job.none_usable())),
                None => None,
            };
            self.ended = true;
            self.pool = None;
            return item;
        }
        None
    }
}

/// A batch in the making.
struct Slot {
    number: u64,
    indices: Vec<usize>,
    state: Mutex<SlotState>,
}

struct SlotState {
    results: Vec<Option<Result<Option<Prepared>>>>,
    missing: usize,
}

impl Slot {
    fn new(number: u64, indices: Vec<usize>) -> Self {
        let results = indices.iter().map(|_| None).collect();
        let missing = indices.len();
        Self { number, indices, state: Mutex::new(SlotState { results, missing }) }
    }

    /// Stores a result; gives all of them back when it was the last, with the first error in sample order.
    fn put(&self, position: usize, result: Result<Option<Prepared>>) -> Option<Result<Vec<Prepared>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.results[position] = Some(result);
        state.missing -= 1;
        if state.missing > 0 {
            return None;
        }
        let results = std::mem::take(&mut state.results);
        drop(state);
        let samples: Result<Vec<Option<Prepared>>> = results.into_iter().flatten().collect();
        Some(samples.map(|samples| samples.into_iter().flatten().collect()))
    }
}

type Finished = (u64, Result<Option<Batch>>);

struct Pool {
    tasks: Option<Sender<(Arc<Slot>, usize)>>,
    finished: Receiver<Finished>,
    /// Batches that overtook the one that is due.
    early: BTreeMap<u64, Result<Option<Batch>>>,
    planned: u64,
    due: u64,
    prefetch: u64,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `None` without workers, also where the system grants no thread.
    fn start<S, T>(job: &Arc<Job<S, T>>, workers: usize, prefetch: usize) -> Option<Self>
    where
        S: Source + 'static,
        T: Transform<S::Sample> + 'static,
    {
        // Both are bounded by `prefetch`: no more batches than that are planned at a time.
        let (tasks, task_queue) = unbounded::<(Arc<Slot>, usize)>();
        let (results, finished) = unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::with_capacity(workers);
        for number in 0..workers {
            let (job, queue, results, stop) =
                (job.clone(), task_queue.clone(), results.clone(), stop.clone());
            let run = move || {
                while let Ok((slot, position)) = queue.recv() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let result = job.prepare_guarded(slot.indices[position]);
                    if let Some(samples) = slot.put(position, result) {
                        let batch = samples.and_then(|samples| job.assemble(samples));
                        if results.send((slot.number, batch)).is_err() {
                            return;
                        }
                    }
                }
            };
            match std::thread::Builder::new().name(format!("loader-{number}")).spawn(run) {
                Ok(thread) => threads.push(thread),
                Err(_) => break,
            }
        }
        (!threads.is_empty()).then_some(Self {
            tasks: Some(tasks),
            finished,
            early: BTreeMap::new(),
            planned: 0,
            due: 0,
            prefetch: prefetch.max(1) as u64,
            stop,
            threads,
        })
    }

    fn refill(&mut self, plan: &mut Plan) {
        while self.planned < self.due + self.prefetch {
            let (Some(indices), Some(tasks)) = (plan.next(), &self.tasks) else {
                return;
            };
            let slot = Arc::new(Slot::new(self.planned, indices));
            for position in 0..slot.indices.len() {
                // Fails only when all workers are gone, which `next` reports.
                let _ = tasks.send((slot.clone(), position));
            }
            self.planned += 1;
        }
    }

    fn next(&mut self, plan: &mut Plan) -> Option<Result<Option<Batch>>> {
        self.refill(plan);
        if self.due == self.planned {
            return None;
        }
        let batch = loop {
            if let Some(batch) = self.early.remove(&self.due) {
                break batch;
            }
            match self.finished.recv() {
                Ok((number, batch)) => self.early.insert(number, batch),
                Err(_) => return Some(Err(Error::data("loader", "all workers ended early"))),
            };
        };
        self.due += 1;
        // Before the consumer goes to compute, so that the workers have something to do meanwhile.
        self.refill(plan);
        Some(batch)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks = None;
        for thread in self.threads.drain(..) {
            // Its panics are caught and reported where they happen.
            let _ = thread.join();
        }
    }
}
