//! What the tests of all method crates share: batches of noise, and the properties that every method must have.
//! Everything panics where a property does not hold: this is a library of assertions.

mod chunks;
mod collapse;
mod gradients;
mod presets;
mod ranks;
mod runs;
mod values;

pub use chunks::{assert_accumulates, assert_chunks, assert_same_gradients};
pub use collapse::{assert_network_collapse_is_seen, assert_no_warnings, warnings};
pub use gradients::{assert_close, assert_gradients, state};
pub use presets::assert_presets;
pub use ranks::{assert_ranks, assert_wrong_factor_is_seen};
pub use runs::{assert_learns, assert_resumes};
pub use values::formula;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::nn::{BackboneConfig, ResNetConfig};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::{Progress, with_big_stack};

/// A ResNet-18 of four channels.
pub fn tiny_resnet() -> BackboneConfig {
    ResNetConfig { base_width: 4, ..ResNetConfig::cifar(18) }.into()
}

/// `n` samples with one view of noise for each of `sides` (pixels).
pub fn batch(n: usize, sides: &[usize]) -> Result<Batch> {
    batch_at(0, n, sides)
}

/// The batch of a step: other noise, and samples `step * n` and on.
pub fn batch_at(step: u64, n: usize, sides: &[usize]) -> Result<Batch> {
    let view = |(v, &side): (usize, &usize)| {
        let mut stream = Key::new(3, Purpose::Data).epoch(step).view(v as u64).stream();
        let values: Vec<f32> = (0..n * 3 * side * side).map(|_| stream.normal() as f32).collect();
        Ok(Tensor::from_vec(values, (n, 3, side, side), &Device::Cpu)?)
    };
    let first = step * n as u64;
    Ok(Batch {
        views: sides.iter().enumerate().map(view).collect::<Result<_>>()?,
        indices: (first..first + n as u64).collect(),
        labels: None,
    })
}

/// Step `step` of ten epochs of ten steps.
pub fn progress(step: u64) -> Progress {
    Progress { seed: 0, step, total_steps: 100, epoch: step / 10, total_epochs: 10, steps_per_epoch: 10 }
}

/// The number in a scalar.
pub fn value(x: &Tensor) -> Result<f64> {
    Ok(f64::from(x.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()?[0]))
}

/// The unit rows of the reference numbers: `sin(8i + j + 1)`, `[rows, 8]`.
pub fn sine(rows: std::ops::Range<usize>) -> Result<Tensor> {
    table(rows, |i, j| (8.0 * i + j + 1.0).sin())
}

/// The unit rows of the reference numbers: `cos(0.37 (8i + j) + i² / 2 + 1)`, `[rows, 8]`.
pub fn cosine(rows: std::ops::Range<usize>) -> Result<Tensor> {
    table(rows, |i, j| (0.37 * (8.0 * i + j) + 0.5 * i * i + 1.0).cos())
}

/// `[6, 8]` of a formula of row and column.
pub fn grid(f: impl Fn(f64, f64) -> f64) -> Result<Tensor> {
    let values: Vec<f32> = (0..48).map(|k| f(f64::from(k / 8), f64::from(k % 8)) as f32).collect();
    Ok(Tensor::from_vec(values, (6, 8), &Device::Cpu)?)
}

fn table(rows: std::ops::Range<usize>, f: impl Fn(f64, f64) -> f64) -> Result<Tensor> {
    let n = rows.len();
    let mut values = Vec::new();
    for i in rows {
        let row: Vec<f64> = (0..8).map(|j| f(i as f64, f64::from(j))).collect();
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        values.extend(row.iter().map(|x| (x / norm) as f32));
    }
    Ok(Tensor::from_vec(values, (n, 8), &Device::Cpu)?)
}

/// Runs `f` where Candle's recursion has room.
pub fn deep<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let mut out = None;
    with_big_stack(|| {
        out = Some(f());
        Ok(())
    })?;
    out.ok_or_else(|| anyhow!("nothing came back"))?
}
