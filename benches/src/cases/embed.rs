//! Embedding: the backbone forward, in evaluation mode and without a graph.

use anyhow::Result;
use candle_core::Device;
use contrastive_core::nn::{Mode, Module, ParamStore, ResNet, ResNetConfig};

use super::normal;
use crate::measure::{Timing, time};

pub(super) fn embed(model: &impl Module, size: usize, batch: usize, repeats: usize) -> Result<Timing> {
    let x = normal("x", &[batch, 3, size, size])?;
    let mode = Mode::eval();
    time(batch, repeats, || {
        model.forward(&x, &mode)?;
        Ok(())
    })
}

fn resnet(config: ResNetConfig) -> Result<ResNet> {
    let params = ParamStore::new(0, &Device::Cpu);
    Ok(ResNet::new(&params.builder(), &config)?)
}

pub(super) fn embed_r18_32(batch: usize, repeats: usize) -> Result<Timing> {
    embed(&resnet(ResNetConfig::cifar(18))?, 32, batch, repeats)
}

pub(super) fn embed_r50_224(batch: usize, repeats: usize) -> Result<Timing> {
    embed(&resnet(ResNetConfig::torchvision(50))?, 224, batch, repeats)
}
