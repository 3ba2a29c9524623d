//! A network that trains in a test.
#![allow(dead_code, reason = "each test file uses its part")]

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::experiment::RunConfig;
use contrastive_core::nn::ResNetConfig;
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::Progress;
use contrastive_simclr::{SimClrConfig, recipe};

/// The smoke preset with a network of four channels.
pub fn tiny() -> anyhow::Result<RunConfig<SimClrConfig>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = ResNetConfig { base_width: 4, ..ResNetConfig::cifar(18) };
    run.method.head.hidden = Some(16);
    run.method.head.output = 8;
    Ok(run)
}

/// Two views of `n` images of random pixels.
pub fn batch(n: usize, side: usize) -> anyhow::Result<Batch> {
    let view = |name: &str| {
        let mut stream = Key::new(3, Purpose::Data).name(name).stream();
        let values: Vec<f32> = (0..n * 3 * side * side).map(|_| stream.normal() as f32).collect();
        Tensor::from_vec(values, (n, 3, side, side), &Device::Cpu)
    };
    Ok(Batch { views: vec![view("a")?, view("b")?], indices: (0..n as u64).collect(), labels: None })
}

/// The first of ten steps.
pub fn progress() -> Progress {
    Progress { seed: 0, step: 0, total_steps: 10, epoch: 0, total_epochs: 1, steps_per_epoch: 10 }
}
