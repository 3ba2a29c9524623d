//! One rank of 2B equals two ranks of B.

use anyhow::{Result, anyhow};
use candle_core::Tensor;
use contrastive_core::data::Batch;
use contrastive_core::dist::{Comm, in_process, single};
use contrastive_core::experiment::{MethodConfig, RunConfig};
use contrastive_core::optim::Gradients;

use crate::{batch_at, deep, progress};

/// Samples that banks are made for.
const SAMPLES: u64 = 4096;

/// Losses of the steps, and tensors by name after them.
type Outcome = (Vec<f64>, Vec<(String, Tensor)>);

/// A few optimiser steps as the training loop makes them; the losses, and all that a checkpoint holds, after them.
fn steps<M: MethodConfig>(run: &RunConfig<M>, batches: &[Batch], comm: &Comm) -> Result<Outcome> {
    let mut method = run.method.build(1, &candle_core::Device::Cpu)?;
    method.prepare(SAMPLES)?;
    let mut optimizer = run.optimizer(method.params())?;
    let mut losses = Vec::new();
    for (i, batch) in batches.iter().enumerate() {
        let progress = progress(i as u64);
        method.before_step(&progress)?;
        let out = method.step(batch, comm, &progress)?;
        let mut gradients = Gradients::of(method.params(), &out.loss)?.average(comm)?;
        gradients.retain(|name| !method.frozen(name, &progress));
        optimizer.step(&gradients, 0.05)?;
        method.after_update(&progress)?;
        let sum = comm.all_reduce_sum(&out.loss.detach().reshape(1)?)?.to_vec1::<f32>()?[0];
        losses.push(f64::from(sum) / comm.size() as f64);
    }
    let mut tensors = method.params().tensors();
    tensors.extend(method.state()?);
    Ok((losses, tensors))
}

fn share(batch: &Batch, rank: usize, size: usize) -> Result<Batch> {
    let n = batch.len() / size;
    let views =
        batch.views.iter().map(|v| Ok(v.narrow(0, rank * n, n)?.contiguous()?)).collect::<Result<_>>()?;
    Ok(Batch { views, indices: batch.indices[rank * n..(rank + 1) * n].to_vec(), labels: None })
}

/// Two steps of `n` samples in all (views of `sides` pixels) give the same losses, parameters and state for every number
/// of ranks in `sizes` as for one. `run_for` gives the run for so many ranks: statistics that a method takes over groups
/// of one batch must become each rank's own.
pub fn assert_ranks<M: MethodConfig + 'static>(
    run_for: impl Fn(usize) -> RunConfig<M>,
    n: usize,
    sides: &[usize],
    sizes: &[usize],
) -> Result<()> {
    let whole: Vec<Batch> = (0..2).map(|step| batch_at(step, n, sides)).collect::<Result<_>>()?;
    for &size in sizes {
        let alone = run_for(1);
        let (losses, expected) = deep(|| steps(&alone, &whole, &single()))?;
        let threads = in_process(size)
            .into_iter()
            .map(|comm| {
                let own: Vec<Batch> =
                    whole.iter().map(|batch| share(batch, comm.rank(), size)).collect::<Result<_>>()?;
                let run = run_for(size);
                let thread = std::thread::Builder::new().stack_size(256 << 20);
                Ok(thread.spawn(move || steps(&run, &own, &comm))?)
            })
            .collect::<Result<Vec<_>>>()?;
        for thread in threads {
            let (rank_losses, tensors) = thread.join().map_err(|_| anyhow!("a rank panicked"))??;
            for (step, (a, b)) in rank_losses.iter().zip(&losses).enumerate() {
                assert!(
                    (a - b).abs() < 1e-4 * b.abs().max(1.0),
                    "{size} ranks, step {step}: {a}, one rank: {b}"
                );
            }
            assert_eq!(tensors.len(), expected.len());
            for ((name, a), (_, b)) in tensors.iter().zip(&expected) {
                let (a, b) = (a.to_dtype(candle_core::DType::F32)?, b.to_dtype(candle_core::DType::F32)?);
                let gap = (&a - &b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                let scale = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(0.1);
                assert!(gap <= 1e-3 * scale, "{size} ranks: {name} differs by {gap}");
            }
        }
    }
    Ok(())
}
