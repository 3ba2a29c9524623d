//! One rank of 2B equals two ranks of B.

use std::sync::Arc;

use anyhow::{Result, anyhow, bail, ensure};
use candle_core::Tensor;
use contrastive_core::data::Batch;
use contrastive_core::dist::{Comm, Communicator, in_process, single};
use contrastive_core::experiment::{MethodConfig, RunConfig};

use crate::{batch_at, deep, progress};

/// Samples that banks are made for.
const SAMPLES: u64 = 4096;

/// Optimiser steps of a comparison.
const STEPS: u64 = 5;

/// Small: a network that learns fast doubles what rounding does to it in every step.
const RATE: f64 = 1e-3;

type Named = Vec<(String, Tensor)>;

/// What all numbers of ranks must agree on.
struct Outcome {
    /// Of each step.
    losses: Vec<f64>,
    /// Of the first step: those of later ones already hang on rounding.
    gradients: Named,
    /// All that a checkpoint holds, after the last step.
    state: Named,
}

/// A few optimiser steps as the training loop makes them.
fn steps<M: MethodConfig>(run: &RunConfig<M>, batches: &[Batch], comm: &Comm) -> Result<Outcome> {
    let mut method = run.method.build(1, &candle_core::Device::Cpu)?;
    method.prepare(SAMPLES)?;
    let mut optimizer = run.optimizer(method.params())?;
    let (mut losses, mut first) = (Vec::new(), Vec::new());
    for (i, batch) in batches.iter().enumerate() {
        let progress = progress(i as u64);
        method.before_step(&progress)?;
        let mut out = method.step(batch, comm, &progress)?;
        let mut gradients = out.take_gradients(method.params())?.average(comm)?;
        if i == 0 {
            first =
                gradients.iter().map(|(name, g)| Ok((name.to_string(), g.copy()?))).collect::<Result<_>>()?;
        }
        gradients.retain(|name| !method.frozen(name, &progress));
        optimizer.step(&gradients, RATE)?;
        method.after_update(&progress)?;
        let sum = comm.all_reduce_sum(&out.loss.detach().reshape(1)?)?.to_vec1::<f32>()?[0];
        losses.push(f64::from(sum) / comm.size() as f64);
    }
    let mut state = method.params().tensors();
    state.extend(method.state()?);
    Ok(Outcome { losses, gradients: first, state })
}

/// Fails where a tensor is further from another run's than `share` of its largest element, or of `floor` if that is
/// more.
fn near(what: &str, own: &Named, other: &Named, share: f32, floor: f32) -> Result<()> {
    ensure!(own.len() == other.len(), "{what}: {} tensors, not {}", own.len(), other.len());
    for ((name, a), (_, b)) in own.iter().zip(other) {
        let (a, b) = (a.to_dtype(candle_core::DType::F32)?, b.to_dtype(candle_core::DType::F32)?);
        let gap = (&a - &b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        let scale = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(floor);
        ensure!(gap <= share * scale, "{what}: {name} differs by {gap} of {scale}");
    }
    Ok(())
}

fn share(batch: &Batch, rank: usize, size: usize) -> Result<Batch> {
    let n = batch.len() / size;
    let views =
        batch.views.iter().map(|v| Ok(v.narrow(0, rank * n, n)?.contiguous()?)).collect::<Result<_>>()?;
    Ok(Batch { views, indices: batch.indices[rank * n..(rank + 1) * n].to_vec(), labels: None })
}

/// Five steps of `n` samples in all (views of `sides` pixels) give the same losses, gradients, parameters and state for
/// every number of ranks in `sizes` as for one.
pub fn assert_ranks<M: MethodConfig + 'static>(
    run: &RunConfig<M>,
    n: usize,
    sides: &[usize],
    sizes: &[usize],
) -> Result<()> {
    for &size in sizes {
        compare(run, n, sides, in_process(size))?;
    }
    Ok(())
}

/// The comparison of [`assert_ranks`] sees a mistake: with a communicator that sums and forgets a factor of the number
/// of ranks it must fail.
pub fn assert_wrong_factor_is_seen<M: MethodConfig + 'static>(
    run: &RunConfig<M>,
    n: usize,
    sides: &[usize],
) -> Result<()> {
    let wrong = in_process(2).into_iter().map(|comm| Arc::new(Forgetful(comm)) as Comm).collect();
    match compare(run, n, sides, wrong) {
        Ok(()) => bail!("gradients divided twice by the number of ranks went through"),
        Err(error) if error.to_string().starts_with("2 ranks, gradients") => Ok(()),
        Err(error) => Err(error.context("another mistake than the one that was made")),
    }
}

/// Divides large sums, as are those of gradients, by the number of ranks, which the training loop does as well.
#[derive(Debug)]
struct Forgetful(Comm);

impl Communicator for Forgetful {
    fn rank(&self) -> usize {
        self.0.rank()
    }
    fn size(&self) -> usize {
        self.0.size()
    }
    fn all_reduce_sum(&self, x: &Tensor) -> contrastive_core::Result<Tensor> {
        let sum = self.0.all_reduce_sum(x)?;
        let factor = if x.elem_count() > 4096 { 1.0 / self.size() as f64 } else { 1.0 };
        Ok((sum * factor)?)
    }
    fn all_gather(&self, x: &Tensor) -> contrastive_core::Result<Tensor> {
        self.0.all_gather(x)
    }
    fn broadcast(&self, x: &Tensor, root: usize) -> contrastive_core::Result<Tensor> {
        self.0.broadcast(x, root)
    }
    fn barrier(&self) -> contrastive_core::Result<()> {
        self.0.barrier()
    }
}

fn compare<M: MethodConfig + 'static>(
    run: &RunConfig<M>,
    n: usize,
    sides: &[usize],
    comms: Vec<Comm>,
) -> Result<()> {
    let whole: Vec<Batch> = (0..STEPS).map(|step| batch_at(step, n, sides)).collect::<Result<_>>()?;
    let expected = deep(|| steps(run, &whole, &single()))?;
    let size = comms.len();
    let threads = comms
        .into_iter()
        .map(|comm| {
            let own: Vec<Batch> =
                whole.iter().map(|batch| share(batch, comm.rank(), size)).collect::<Result<_>>()?;
            let run = run.clone();
            let thread = std::thread::Builder::new().stack_size(256 << 20);
            Ok(thread.spawn(move || steps(&run, &own, &comm))?)
        })
        .collect::<Result<Vec<_>>>()?;
    for thread in threads {
        let outcome = thread.join().map_err(|_| anyhow!("a rank panicked"))??;
        near(&format!("{size} ranks, gradients"), &outcome.gradients, &expected.gradients, 1e-2, 2e-2)?;
        for (step, (a, b)) in outcome.losses.iter().zip(&expected.losses).enumerate() {
            let gap = (a - b).abs();
            ensure!(gap < 1e-3 * b.abs().max(1.0), "{size} ranks, step {step}: {a}, one rank: {b}");
        }
        near(&format!("{size} ranks, state"), &outcome.state, &expected.state, 5e-3, 0.1)?;
    }
    Ok(())
}
