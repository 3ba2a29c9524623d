//! CPC on images.

mod networks;
mod runs;
mod task;

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::augment::ColorSpace;
use contrastive_core::experiment::RunConfig;
use contrastive_core::nn::{PatchNetConfig, PatchStem};
use contrastive_core::rng::{Key, Purpose};
use contrastive_cpc::images::{ImagesConfig, Negatives, RowContextConfig, recipe};

/// The smoke preset on 7x7 patches of 8 pixels, half of which neighbours share.
pub fn small() -> Result<RunConfig<ImagesConfig>> {
    let mut run = recipe::preset("images-smoke")?;
    let encoder = &mut run.method.encoder;
    *encoder = PatchNetConfig { patch: 8, stride: 4, stem: PatchStem::Conv3, channels: 8, ..*encoder };
    run.method.objective.negatives = Negatives::All {};
    Ok(run)
}

/// The same with two channels, in colour: the batches of noise that tests share have three channels.
pub fn tiny() -> Result<RunConfig<ImagesConfig>> {
    let mut run = small()?;
    run.method.encoder.in_channels = 3;
    run.method.encoder.channels = 2;
    run.method.context = Some(RowContextConfig { blocks: 2, width: 8 });
    run.augment.color = ColorSpace::Rgb;
    run.eval.color = ColorSpace::Rgb;
    for norm in [&mut run.eval.mean, &mut run.eval.std] {
        *norm = vec![norm[0]; 3];
    }
    for op in &mut run.augment.views[0].ops {
        if let contrastive_core::augment::Op::Normalize { mean, std } = op {
            (*mean, *std) = (vec![mean[0]; 3], vec![std[0]; 3]);
        }
    }
    Ok(run)
}

/// Standard normal values.
pub fn noise(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(9, Purpose::Data).name(name).stream();
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

pub fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}
