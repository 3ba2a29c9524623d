//! CPC on synthetic voices.

mod networks;
mod runs;
mod task;

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::data::{Batch, Batches};
use contrastive_core::dist::single;
use contrastive_cpc::speech::run::loader;
use contrastive_cpc::speech::{Recordings, SpeechRun, recipe, synthetic};

/// The smoke preset with eight channels and windows of 32 frames.
pub fn tiny() -> Result<SpeechRun> {
    let mut run = recipe::preset("smoke")?;
    run.method.encoder.channels = 8;
    run.method.context.width = 6;
    run.method.objective.steps = 3;
    run.windows.samples = 5120;
    run.train.batch_size = 4;
    Ok(run)
}

/// Three voices, four recordings each.
pub fn few() -> Result<Recordings> {
    Ok(synthetic::voices(3, 4, 0.6, 2)?)
}

/// The first batch of a run.
pub fn batch(run: &SpeechRun) -> Result<Batch> {
    let batches = loader(run, &few()?, 0, &single())?;
    let first = batches.epoch(0, 0).next().expect("a batch")?;
    Ok(first)
}

pub fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

/// The first of the collection as a batch of one.
pub fn wave(samples: usize) -> Result<Tensor> {
    let set = few()?;
    let data = set.all()[0].samples[..samples].iter().map(|x| x * 10.0).collect::<Vec<f32>>();
    Ok(Tensor::from_vec(data, (1, 1, samples), &Device::Cpu)?)
}
