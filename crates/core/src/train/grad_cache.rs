//! Batches larger than memory: gradient caching (Gao et al. 2021, *Scaling Deep Contrastive Learning Batch Size under
//! Memory Limited Setup*).
//!
//! A contrastive loss needs the embeddings of the whole batch, but the graph behind them only chunk by chunk:
//!
//! 1. every chunk is encoded and its graph dropped; the embeddings stay,
//! 2. the loss on all embeddings gives its gradient `∂L/∂z` for each of them,
//! 3. every chunk is encoded again, and `Σ z · ∂L/∂z` (a constant) differentiated: by the chain rule the sum over chunks
//!    is the gradient of the whole.
//!
//! Memory is that of one chunk's graph and of the embeddings, for a second forward pass in time.
//!
//! **Batch norm.** What a chunk's samples see of each other they see in both passes: statistics are those of a chunk (on
//! all ranks where they are synchronised), as on many small devices. Those of the whole batch would tie every chunk's
//! graph to all others', and their exact gradient needs all activations at once, which is what the cache avoids. A
//! chunk of 64 images or more behaves like a batch of that size; methods whose loss can be solved through statistics of
//! few samples (SimCLR's section 2.2) want chunks as large as memory allows, or layers without batch statistics.

use candle_core::{Tensor, Var};

use crate::nn::{Mode, ParamStore};
use crate::optim::Gradients;
use crate::{Error, Result};

/// The gradient of `loss` on the embeddings of all chunks, without ever holding more than one chunk's graph.
///
/// `encode` gives a chunk's embeddings `[n, D]` in the mode it is handed: `mode` without gradients and with running
/// statistics updated the first time, with gradients and without that the second. It must give the same both times.
/// `loss` gets the embeddings of all chunks `[Σ n, D]` in order and gives the scalar, and whatever else it wants to hand
/// on. With several ranks `loss` may gather; all ranks need the same number of chunks.
///
/// # Errors
/// No chunks, embeddings of other shapes in the second pass, and whatever the closures refuse.
pub fn grad_cache<T>(
    params: &ParamStore,
    mode: &Mode,
    chunks: usize,
    mut encode: impl FnMut(usize, &Mode) -> Result<Tensor>,
    loss: impl FnOnce(&Tensor) -> Result<(Tensor, T)>,
) -> Result<(Tensor, T, Gradients)> {
    let first = mode.without_grad();
    let found = (0..chunks).map(|c| Ok(encode(c, &first)?.detach())).collect::<Result<Vec<_>>>()?;
    if found.is_empty() {
        return Err(Error::shape("grad_cache", "at least one chunk", &[0]));
    }
    let all = Var::from_tensor(&Tensor::cat(&found, 0)?)?;
    let (value, more) = loss(all.as_tensor())?;
    let wanted = value.backward()?.remove(all.as_tensor());
    let wanted =
        wanted.ok_or_else(|| Error::data("grad_cache", "the loss has no gradient for embeddings"))?.detach();
    let second = mode.without_tracking();
    let mut sum = Gradients::from_named(Vec::new());
    let mut start = 0;
    for (c, before) in found.iter().enumerate() {
        let rows = before.dim(0)?;
        let z = encode(c, &second)?;
        if z.dims() != before.dims() {
            return Err(Error::shape(
                "grad_cache",
                format!("{:?} as in the first pass", before.dims()),
                z.dims(),
            ));
        }
        let gradients = Gradients::of(params, &(z * wanted.narrow(0, start, rows)?)?.sum_all()?)?;
        start += rows;
        sum = sum.plus(gradients)?;
    }
    Ok((value.detach(), more, sum))
}
