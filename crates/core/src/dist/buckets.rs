//! Many tensors in few collectives.

use candle_core::Tensor;

use super::Comm;
use crate::Result;

/// Bytes of tensors that travel together.
const BUCKET_BYTES: usize = 25 << 20;

/// The mean over ranks of each tensor, in buckets of about 25 MB: a collective for each tensor would cost its latency
/// hundreds of times. No gradient.
///
/// # Errors
/// A rank that is gone or brings other tensors.
pub fn all_reduce_mean(tensors: &[Tensor], comm: &Comm) -> Result<Vec<Tensor>> {
    let scale = 1.0 / comm.size() as f64;
    let mut means = Vec::with_capacity(tensors.len());
    let mut rest = tensors;
    while !rest.is_empty() {
        let (bucket, behind) = rest.split_at(bucket(rest));
        let flat = bucket.iter().map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?;
        let mean = (comm.all_reduce_sum(&Tensor::cat(&flat, 0)?)? * scale)?;
        let mut start = 0;
        for tensor in bucket {
            means.push(mean.narrow(0, start, tensor.elem_count())?.reshape(tensor.shape())?);
            start += tensor.elem_count();
        }
        rest = behind;
    }
    Ok(means)
}

/// How many of the first tensors travel together: at least one, all of one type.
fn bucket(tensors: &[Tensor]) -> usize {
    let mut bytes = 0;
    let fits = |x: &&Tensor| {
        bytes += x.elem_count() * x.dtype().size_in_bytes();
        bytes <= BUCKET_BYTES && x.dtype() == tensors[0].dtype()
    };
    tensors.iter().take_while(fits).count().max(1)
}
