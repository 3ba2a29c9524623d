//! Shuffled batch norm: orders, and what they do to batch statistics.

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use contrastive_core::dist::{Comm, in_process, single};
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::ParamStore;
use contrastive_moco::shuffle::{Shuffle, average_running_statistics};
use contrastive_moco::{MocoConfig, QueueConfig};
use contrastive_testing as testing;

use crate::tiny;

/// `0..n`, one to a row.
fn numbers(n: usize) -> Result<Tensor> {
    Ok(Tensor::arange(0f32, n as f32, &Device::Cpu)?.reshape((n, 1))?)
}

fn order(shuffle: &Shuffle) -> Result<Vec<f32>> {
    Ok(shuffle.apply(&numbers(32)?, &single())?.flatten_all()?.to_vec1()?)
}

#[test]
fn every_step_and_direction_has_an_order_of_its_own() -> Result<()> {
    let progress = testing::progress(3);
    let first = order(&Shuffle::new(32, &progress, 0))?;
    assert_eq!(first, order(&Shuffle::new(32, &progress, 0))?);
    let mut sorted = first.clone();
    sorted.sort_by(f32::total_cmp);
    assert_eq!(sorted, order(&Shuffle::none())?);
    let others =
        [Shuffle::new(32, &progress, 1), Shuffle::new(32, &testing::progress(4), 0), Shuffle::none()];
    for other in &others {
        assert_ne!(first, order(other)?);
    }
    Ok(())
}

/// Runs `f` on so many ranks, and gives what each of them returned.
fn on_ranks<T: Send + 'static>(size: usize, f: fn(&Comm) -> Result<T>) -> Result<Vec<T>> {
    let threads: Vec<_> =
        in_process(size).into_iter().map(|comm| std::thread::spawn(move || f(&comm))).collect();
    threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a rank panicked"))?).collect()
}

#[test]
fn undone_orders_give_every_rank_all_samples_in_order() -> Result<()> {
    let passed = |comm: &Comm| {
        let n = 12 / comm.size();
        let own = numbers(12)?.narrow(0, comm.rank() * n, n)?.contiguous()?;
        let mut seen = Vec::new();
        for shuffle in [Shuffle::new(12, &testing::progress(0), 0), Shuffle::none()] {
            let share = shuffle.apply(&own, comm)?;
            seen.push(share.flatten_all()?.to_vec1::<f32>()?);
            let all = shuffle.undo(&share, comm)?;
            assert_eq!(all.to_vec2::<f32>()?, numbers(12)?.to_vec2::<f32>()?);
        }
        Ok(seen)
    };
    let alone = on_ranks(1, passed)?;
    for size in [2, 3] {
        let together: Vec<f32> =
            on_ranks(size, passed)?.into_iter().flat_map(|mut seen| seen.swap_remove(0)).collect();
        assert_eq!(together, alone[0][0], "{size} ranks");
    }
    Ok(())
}

/// One step's loss and keys; the second view is the key.
fn step(bn_groups: usize, shuffle: bool) -> Result<(f64, Tensor)> {
    let config = QueueConfig { bn_groups, shuffle, symmetric: false, ..tiny()? };
    let mut method = MocoConfig::V2(config).build(1, &Device::Cpu)?;
    let mut out = method.step(&testing::batch(16, &[16, 16])?, &single(), &testing::progress(0))?;
    Ok((testing::value(&out.loss)?, out.embeddings.swap_remove(1)))
}

/// Where batch norm sees devices, keys have other statistics; where it sees the whole batch, nothing changes: keys come
/// back to their queries.
#[test]
fn shuffling_changes_groups_and_nothing_else() -> Result<()> {
    let gap = |groups: usize| -> Result<(f64, f64)> {
        let ((a, with), (b, without)) = (step(groups, true)?, step(groups, false)?);
        Ok(((a - b).abs(), testing::value(&(with - without)?.abs()?.flatten_all()?.max(0)?)?))
    };
    let (loss, keys) = gap(1)?;
    assert!(loss < 1e-4 && keys < 1e-4, "one group: {loss}, {keys}");
    let (loss, keys) = gap(4)?;
    assert!(loss > 1e-3 && keys > 1e-2, "four groups: {loss}, {keys}");
    Ok(())
}

#[test]
fn ranks_share_the_mean_of_their_running_statistics() -> Result<()> {
    let means = on_ranks(2, |comm| {
        let params = ParamStore::new(1, &Device::Cpu);
        let b = params.builder();
        let weight = b.param("weight", 2, contrastive_core::nn::Init::Const(comm.rank() as f64))?;
        let mean = b.buffer("running_mean", 3, comm.rank() as f64)?;
        let var = b.buffer("running_var", 2, 4.0 * comm.rank() as f64)?;
        average_running_statistics(&params, comm)?;
        Ok((weight.to_vec1::<f32>()?, mean.to_vec1::<f32>()?, var.to_vec1::<f32>()?))
    })?;
    for (rank, (weight, mean, var)) in means.into_iter().enumerate() {
        assert_eq!((weight, mean, var), (vec![rank as f32; 2], vec![0.5; 3], vec![2.0; 2]));
    }
    Ok(())
}
