//! One rank of 2B samples equals two ranks of B: loss and gradient of an encoder.

use std::sync::Arc;

use candle_core::{Tensor, Var};
use proptest::prelude::*;

use super::tests_support::{difference, embeddings, scalar};
use super::{InBatch, info_nce_in_batch, info_nce_queue, nt_xent};
use crate::Result;
use crate::dist::{Comm, Communicator, run_in_process, single};
use crate::optim::Gradients;

type Loss = fn(&Tensor, &Tensor, &Comm) -> Result<Tensor>;

fn contrast(z1: &Tensor, z2: &Tensor, comm: &Comm) -> Result<Tensor> {
    Ok(nt_xent(z1, z2, 0.5, true, comm)?.loss)
}

fn in_batch(z1: &Tensor, z2: &Tensor, comm: &Comm) -> Result<Tensor> {
    Ok(info_nce_in_batch(z1, z2, 0.5, InBatch::default(), comm)?.loss)
}

fn in_batch_constant_keys(z1: &Tensor, z2: &Tensor, comm: &Comm) -> Result<Tensor> {
    let settings = InBatch { normalize: true, key_gradient: false };
    Ok(info_nce_in_batch(z1, z2, 0.5, settings, comm)?.loss)
}

fn queue(z1: &Tensor, z2: &Tensor, _: &Comm) -> Result<Tensor> {
    Ok(info_nce_queue(z1, z2, &embeddings(99, 17, z1.dim(1)?), 0.5, true)?.loss)
}

/// Loss and averaged parameter gradient of a linear encoder with a non-linearity, on this rank's part of the samples.
fn step(loss: Loss, samples: usize, d: usize, comm: &Comm) -> Result<(Tensor, Tensor)> {
    let weight = Var::from_tensor(&embeddings(1, 5, d))?;
    let batch = samples / comm.size();
    let encode = |view: u64| -> Result<Tensor> {
        let x = embeddings(view, samples, 5).narrow(0, comm.rank() * batch, batch)?;
        Ok(x.matmul(weight.as_tensor())?.tanh()?)
    };
    let loss = loss(&encode(2)?, &encode(3)?, comm)?;
    let gradient = loss.backward()?.remove(weight.as_tensor()).unwrap();
    let gradients = Gradients::from_named(vec![("weight".into(), gradient)]).average(comm)?;
    let mean = (comm.all_reduce_sum(&loss)? / comm.size() as f64)?;
    Ok((mean, gradients.get("weight").unwrap().clone()))
}

/// The largest relative difference of loss and gradient between one rank and `size` ranks.
fn discrepancy(loss: Loss, size: usize, batch: usize, d: usize, wrap: fn(Comm) -> Comm) -> (f64, f64) {
    let samples = size * batch;
    let (value, gradient) = step(loss, samples, d, &single()).unwrap();
    let ranks = run_in_process(size, |comm| step(loss, samples, d, &wrap(comm))).unwrap();
    let mut worst = (0f64, 0f64);
    for (other, other_gradient) in &ranks {
        worst.0 = worst.0.max((scalar(other) / scalar(&value) - 1.0).abs());
        worst.1 = worst.1.max(difference(other_gradient, &gradient));
        // All ranks hold the same bytes.
        assert_eq!(difference(other_gradient, &ranks[0].1), 0.0);
    }
    worst
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn one_rank_equals_several(size in 2usize..5, batch in 2usize..40, d in 2usize..8) {
        for loss in [contrast as Loss, in_batch, in_batch_constant_keys, queue] {
            let (value, gradient) = discrepancy(loss, size, batch, d, |comm| comm);
            prop_assert!(value < 1e-5, "loss {}", value);
            prop_assert!(gradient < 1e-4, "gradient {}", gradient);
        }
    }
}

/// A communicator whose sums are means: the usual mistake of averaging twice.
#[derive(Debug)]
struct Averaging(Comm);

impl Communicator for Averaging {
    fn rank(&self) -> usize {
        self.0.rank()
    }
    fn size(&self) -> usize {
        self.0.size()
    }
    fn all_reduce_sum(&self, x: &Tensor) -> Result<Tensor> {
        let sum = self.0.all_reduce_sum(x)?;
        // Only the gather's backward pass reduces matrices taller than the encoder's weight.
        if x.rank() == 2 && x.dims()[0] > 5 { Ok((sum / self.size() as f64)?) } else { Ok(sum) }
    }
    fn all_gather(&self, x: &Tensor) -> Result<Tensor> {
        self.0.all_gather(x)
    }
    fn broadcast(&self, x: &Tensor, root: usize) -> Result<Tensor> {
        self.0.broadcast(x, root)
    }
    fn barrier(&self) -> Result<()> {
        self.0.barrier()
    }
}

#[test]
fn the_check_sees_a_wrong_factor() {
    for loss in [contrast as Loss, in_batch] {
        for size in [2, 4] {
            let (value, gradient) = discrepancy(loss, size, 8, 4, |comm| Arc::new(Averaging(comm)));
            assert!(value < 1e-5, "the loss itself is right: {value}");
            assert!(gradient > 1e-2, "averaged twice, yet only {gradient} away");
        }
    }
    // A factor of the world size on the loss.
    let scaled: Loss = |z1, z2, comm| Ok((contrast(z1, z2, comm)? * comm.size() as f64)?);
    let (value, gradient) = discrepancy(scaled, 2, 8, 4, |comm| comm);
    assert!(value > 0.5 && gradient > 0.5);
}
