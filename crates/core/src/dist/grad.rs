//! Collectives with a gradient; see the [convention](super).

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Shape, Storage, Tensor};

use super::Comm;
use crate::{Error, Result};

/// The rows of all ranks in rank order: `[N, ...]` on each of `R` ranks to `[R * N, ...]`.
///
/// Backward: the gradients of all ranks are summed and each takes its own rows. The backward pass is collective: every
/// rank must run it.
///
/// # Errors
/// As [`super::Communicator::all_gather`]; a tensor without a first dimension.
pub fn all_gather_with_grad(x: &Tensor, comm: &Comm) -> Result<Tensor> {
    let rows = *x.dims().first().ok_or_else(|| Error::shape("all_gather", "[N, ...]", x.dims()))?;
    if comm.size() == 1 {
        return Ok(x.clone());
    }
    let value = comm.all_gather(x)?;
    let comm = comm.clone();
    attach(x, value, "all_gather", move |gradient| {
        let sum = comm.all_reduce_sum(gradient)?;
        Ok(sum.narrow(0, comm.rank() * rows, rows)?.contiguous()?)
    })
}

/// The sum over ranks. Backward: the sum of all ranks' gradients. The backward pass is collective: every rank must run
/// it.
///
/// # Errors
/// As [`super::Communicator::all_reduce_sum`].
pub fn all_reduce_with_grad(x: &Tensor, comm: &Comm) -> Result<Tensor> {
    if comm.size() == 1 {
        return Ok(x.clone());
    }
    let value = comm.all_reduce_sum(x)?;
    let comm = comm.clone();
    attach(x, value, "all_reduce", move |gradient| comm.all_reduce_sum(gradient))
}

type Backward = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

/// A known value that hangs on `x` in the graph, with `backward` from its gradient to `x`'s. Works on any device, as
/// the value was computed outside.
fn attach(
    x: &Tensor,
    value: Tensor,
    name: &'static str,
    backward: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    if !x.track_op() {
        return Ok(value);
    }
    Ok(x.apply_op1(Attached { value: value.contiguous()?, name, backward: Arc::new(backward) })?)
}

struct Attached {
    value: Tensor,
    name: &'static str,
    backward: Arc<Backward>,
}

/// A copy of the storage that `pick` finds in the value.
fn copied<S: BackendStorage>(
    op: &Attached,
    pick: impl Fn(&Storage) -> Option<&S>,
) -> candle_core::Result<(S, Shape)> {
    let (storage, layout) = op.value.storage_and_layout();
    match pick(&storage) {
        Some(storage) => Ok((storage.try_clone(layout)?, op.value.shape().clone())),
        None => candle_core::bail!("{}: the value came back on another device", op.name),
    }
}

impl CustomOp1 for Attached {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        copied(self, |s| if let Storage::Cpu(s) = s { Some(s) } else { None })
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        copied(self, |s| if let Storage::Cuda(s) = s { Some(s) } else { None })
    }
    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> candle_core::Result<(MetalStorage, Shape)> {
        copied(self, |s| if let Storage::Metal(s) = s { Some(s) } else { None })
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        (self.backward)(gradient).map(Some).map_err(candle_core::Error::wrap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dist::{run_in_process, single};
    use candle_core::{Device, Var};
    use proptest::prelude::*;

    fn input(rank: usize, n: usize, d: usize) -> Tensor {
        let data: Vec<f32> = (0..n * d).map(|i| ((i + 31 * rank) as f32 * 0.77).sin()).collect();
        Tensor::from_vec(data, (n, d), &Device::Cpu).unwrap()
    }

    /// Weights that differ by rank, so that a gradient that is not summed over ranks shows.
    fn weights(rank: usize, n: usize, d: usize) -> Tensor {
        input(100 + rank, n, d)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn gather_sums_gradients_and_takes_its_own_rows(size in 1usize..5, n in 1usize..5, d in 1usize..4) {
            let results = run_in_process(size, |comm| {
                let x = Var::from_tensor(&input(comm.rank(), n, d))?;
                let all = all_gather_with_grad(x.as_tensor(), &comm)?;
                // A second use of x must add up with the gather's.
                let loss = ((all * weights(comm.rank(), size * n, d))?.sum_all()? + x.sum_all()?)?;
                let grads = loss.backward()?;
                Ok(grads.get(x.as_tensor()).unwrap().flatten_all()?.to_vec1::<f32>()?)
            }).unwrap();
            for (rank, gradient) in results.iter().enumerate() {
                for (i, g) in gradient.iter().enumerate() {
                    let at = rank * n * d + i;
                    let expected: f32 = (0..size)
                        .map(|r| weights(r, size * n, d).flatten_all().unwrap().to_vec1::<f32>().unwrap()[at])
                        .sum();
                    prop_assert!((g - expected - 1.0).abs() < 1e-5, "{} {}", g, expected);
                }
            }
        }

        #[test]
        fn reduce_sums_values_and_gradients(size in 1usize..5, n in 1usize..6) {
            let results = run_in_process(size, |comm| {
                let x = Var::from_tensor(&input(comm.rank(), n, 1))?;
                let sum = all_reduce_with_grad(x.as_tensor(), &comm)?;
                let grads = (&sum * weights(comm.rank(), n, 1))?.sum_all()?.backward()?;
                let gradient = grads.get(x.as_tensor()).unwrap().flatten_all()?.to_vec1::<f32>()?;
                Ok((sum.flatten_all()?.to_vec1::<f32>()?, gradient))
            }).unwrap();
            let total = |f: fn(usize, usize, usize) -> Tensor, i: usize| -> f32 {
                (0..size).map(|r| f(r, n, 1).flatten_all().unwrap().to_vec1::<f32>().unwrap()[i]).sum()
            };
            for (sum, gradient) in &results {
                for i in 0..n {
                    prop_assert!((sum[i] - total(input, i)).abs() < 1e-5);
                    prop_assert!((gradient[i] - total(weights, i)).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn untracked_inputs_leave_no_graph_and_scalars_are_refused() -> Result<()> {
        let tracked =
            run_in_process(2, |comm| Ok(all_gather_with_grad(&input(comm.rank(), 2, 2), &comm)?.track_op()))?;
        assert_eq!(tracked, [false, false]);
        let scalar = Tensor::new(1f32, &Device::Cpu)?;
        assert!(all_gather_with_grad(&scalar, &single()).is_err());
        Ok(())
    }

    #[test]
    fn a_rank_that_skips_the_backward_pass_is_an_error_not_a_hang() {
        let error = run_in_process(2, |comm| {
            let x = Var::from_tensor(&input(comm.rank(), 2, 2))?;
            let all = all_gather_with_grad(x.as_tensor(), &comm)?;
            if comm.rank() == 0 {
                all.sum_all()?.backward().map(drop)?
            }
            Ok(())
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("rank 1: left before all_reduce_sum"), "{error}");
    }
}
