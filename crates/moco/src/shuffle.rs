//! Shuffled batch norm (He et al. 2020, section 3.3): a key is normalised with other samples than its query, so that
//! batch statistics cannot give away which key is whose.

use candle_core::{Tensor, Var};
use contrastive_core::Result;
use contrastive_core::dist::{Comm, all_reduce_mean};
use contrastive_core::nn::{Kind, ParamStore};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::Progress;

/// An order of the samples of all ranks: the same on each of them, another one in every step.
#[derive(Debug)]
pub struct Shuffle {
    /// The sample at each place; none where samples stay.
    order: Option<Vec<u32>>,
}

impl Shuffle {
    /// The order of `n` samples (of all ranks) for one step and one direction of the loss.
    pub fn new(n: usize, progress: &Progress, direction: u64) -> Self {
        let key =
            Key::new(progress.seed, Purpose::Shuffle).name("moco keys").epoch(progress.step).view(direction);
        Self { order: Some(key.stream().permutation(n).into_iter().map(|i| i as u32).collect()) }
    }

    /// Every sample stays where it is (the paper's ablation).
    pub fn none() -> Self {
        Self { order: None }
    }

    /// This rank's share `[N, ..]` of the shuffled samples of all ranks, from each rank's own `[N, ..]`.
    ///
    /// # Errors
    /// A rank that is gone or brings another shape.
    pub fn apply(&self, own: &Tensor, comm: &Comm) -> Result<Tensor> {
        let Some(order) = &self.order else { return Ok(own.clone()) };
        let n = own.dim(0)?;
        let mine = order.iter().skip(comm.rank() * n).take(n).copied().collect();
        select(&comm.all_gather(own)?, mine)
    }

    /// What [`Shuffle::apply`] did, undone: the rows of all ranks in the samples' order, `[R N, ..]`.
    ///
    /// # Errors
    /// As [`Shuffle::apply`].
    pub fn undo(&self, shuffled: &Tensor, comm: &Comm) -> Result<Tensor> {
        let all = comm.all_gather(shuffled)?;
        let Some(order) = &self.order else { return Ok(all) };
        let mut places = vec![0u32; order.len()];
        for (place, &sample) in order.iter().enumerate() {
            if let Some(entry) = places.get_mut(sample as usize) {
                *entry = place as u32;
            }
        }
        select(&all, places)
    }
}

fn select(x: &Tensor, rows: Vec<u32>) -> Result<Tensor> {
    let n = rows.len();
    Ok(x.contiguous()?.index_select(&Tensor::from_vec(rows, n, x.device())?, 0)?)
}

/// Gives all ranks the mean of their running statistics: what one rank with so many times the groups would have.
///
/// # Errors
/// A rank that is gone.
pub fn average_running_statistics(params: &ParamStore, comm: &Comm) -> Result<()> {
    let buffers: Vec<Var> = params
        .entries()
        .into_iter()
        .filter(|entry| entry.kind == Kind::Buffer)
        .map(|entry| entry.var)
        .collect();
    if comm.size() == 1 {
        return Ok(());
    }
    let own: Vec<Tensor> = buffers.iter().map(Var::as_detached_tensor).collect();
    for (var, mean) in buffers.iter().zip(all_reduce_mean(&own, comm)?) {
        var.set(&mean.contiguous()?)?;
    }
    Ok(())
}
