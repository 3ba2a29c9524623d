//! One rank of 2B equals two ranks of B: loss, gradients, and the parameters after an optimiser step.

mod common;

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::{Comm, in_process, single};
use contrastive_core::optim::Gradients;
use contrastive_core::train::{Method, with_big_stack};
use contrastive_simclr::SimClr;

/// One optimiser step on one rank; gives the loss and all parameters and buffers after it.
fn step(batch: &Batch, comm: &Comm) -> contrastive_core::Result<(f64, Vec<(String, Tensor)>)> {
    let run = common::tiny().map_err(|e| contrastive_core::Error::data("test", e.to_string()))?;
    let mut method = SimClr::new(run.method.clone(), 1, &Device::Cpu)?;
    let mut optimizer = run.optimizer(method.params())?;
    let out = method.step(batch, comm, &common::progress())?;
    let gradients = Gradients::of(method.params(), &out.loss)?.average(comm)?;
    optimizer.step(&gradients, 0.1)?;
    let loss = comm.all_reduce_sum(&out.loss.detach().reshape(1)?)?.to_vec1::<f32>()?[0];
    Ok((f64::from(loss) / comm.size() as f64, method.params().tensors()))
}

fn share(batch: &Batch, rank: usize, size: usize) -> Result<Batch> {
    let n = batch.len() / size;
    let views =
        batch.views.iter().map(|v| v.narrow(0, rank * n, n)?.contiguous()).collect::<Result<_, _>>()?;
    Ok(Batch { views, indices: batch.indices[rank * n..(rank + 1) * n].to_vec(), labels: None })
}

#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let whole = common::batch(8, 16)?;
    let mut alone = None;
    with_big_stack(|| {
        alone = Some(step(&whole, &single())?);
        Ok(())
    })?;
    let (loss, expected) = alone.ok_or_else(|| anyhow::anyhow!("nothing came back"))?;
    for size in [2, 4] {
        let threads = in_process(size)
            .into_iter()
            .map(|comm| {
                let own = share(&whole, comm.rank(), size)?;
                let thread = std::thread::Builder::new().stack_size(64 << 20);
                Ok(thread.spawn(move || step(&own, &comm))?)
            })
            .collect::<Result<Vec<_>>>()?;
        for thread in threads {
            let (rank_loss, tensors) = thread.join().map_err(|_| anyhow::anyhow!("a rank panicked"))??;
            assert!((rank_loss - loss).abs() < 1e-5, "{size} ranks: {rank_loss}, one: {loss}");
            for ((name, a), (_, b)) in tensors.iter().zip(&expected) {
                let gap = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                let scale = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?.max(0.1);
                assert!(gap <= 2e-4 * scale, "{size} ranks: {name} differs by {gap}");
            }
        }
    }
    Ok(())
}
