//! Training steps: forward, backward and update.

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::single;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::loss::info_nce_queue;
use contrastive_core::nn::{Encoder, Mlp, MlpLayer, Mode, Module, ParamStore, ResNet, ResNetConfig};
use contrastive_core::optim::{Gradients, Optimizer, OptimizerConfig, ParamGroups, SgdConfig};
use contrastive_core::state::{Buffers, ema_update};
use contrastive_core::tensor::l2_normalize;
use contrastive_core::train::{Method, Progress, with_big_stack};
use contrastive_simclr::{HeadConfig, HeadStyle, LossForm, SimClrConfig, Version};

use super::normal;
use crate::measure::{Timing, time};

/// SimCLR as lightly builds it.
pub(super) fn simclr(backbone: ResNetConfig, hidden: usize, chunk: Option<usize>) -> Result<Box<dyn Method>> {
    let config = SimClrConfig {
        version: Version::V1,
        backbone: backbone.into(),
        head: HeadConfig { hidden: Some(hidden), output: 128, layers: 2, style: HeadStyle::Torch },
        temperature: 0.5,
        loss: LossForm::Paper,
        sync_batch_norm: false,
        chunk,
    };
    Ok(config.build(0, &Device::Cpu)?)
}

pub(super) fn sgd(params: &ParamStore) -> Result<Box<dyn Optimizer>> {
    let config = OptimizerConfig::Sgd(SgdConfig { weight_decay: 5e-4, ..SgdConfig::default() });
    Ok(config.build(params, &ParamGroups::new())?)
}

/// One step of a method: what the training loop does between two batches.
pub(super) fn step(method: &mut dyn Method, optimizer: &mut dyn Optimizer, batch: &Batch) -> Result<()> {
    let progress =
        Progress { seed: 0, step: 0, total_steps: 1, epoch: 0, total_epochs: 1, steps_per_epoch: 1 };
    let mut out = method.step(batch, &single(), &progress)?;
    let gradients = out.take_gradients(method.params())?;
    optimizer.step(&gradients, 0.06)?;
    Ok(())
}

/// [`time`] on a thread with room for Candle's recursion.
pub(super) fn time_deep(
    items: usize,
    repeats: usize,
    unit: impl FnMut() -> Result<()> + Send,
) -> Result<Timing> {
    with_big_stack(|| Ok(time(items, repeats, unit)))?
}

fn simclr_step(
    backbone: ResNetConfig,
    (hidden, chunk): (usize, Option<usize>),
    size: usize,
    batch: usize,
    repeats: usize,
) -> Result<Timing> {
    let mut method = simclr(backbone, hidden, chunk)?;
    let mut optimizer = sgd(method.params())?;
    let data = Batch {
        views: vec![normal("a", &[batch, 3, size, size])?, normal("b", &[batch, 3, size, size])?],
        indices: (0..batch as u64).collect(),
        labels: None,
    };
    time_deep(2 * batch, repeats, || step(method.as_mut(), optimizer.as_mut(), &data))
}

pub(super) fn simclr_r18_32(batch: usize, repeats: usize) -> Result<Timing> {
    simclr_step(ResNetConfig::cifar(18), (512, None), 32, batch, repeats)
}

/// Chunks of 64: a large batch in little memory.
pub(super) fn simclr_cached_r18_32(batch: usize, repeats: usize) -> Result<Timing> {
    simclr_step(ResNetConfig::cifar(18), (512, Some(64)), 32, batch, repeats)
}

pub(super) fn simclr_r50_224(batch: usize, repeats: usize) -> Result<Timing> {
    simclr_step(ResNetConfig::torchvision(50), (2048, None), 224, batch, repeats)
}

/// An encoder with MoCo v2's head.
struct Momentum {
    params: ParamStore,
    backbone: ResNet,
    head: Mlp,
}

impl Momentum {
    fn new() -> Result<Self> {
        let params = ParamStore::new(0, &Device::Cpu);
        let b = params.builder();
        let backbone = ResNet::new(&b.pp("backbone"), &ResNetConfig::cifar(18))?;
        let layers = [MlpLayer::linear(512).relu(), MlpLayer::linear(128)];
        let head = Mlp::new(&b.pp("head"), backbone.width(), &layers)?;
        Ok(Self { params, backbone, head })
    }

    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        Ok(self.head.forward(&self.backbone.forward(x, mode)?, mode)?)
    }
}

pub(super) fn moco_r18_32(batch: usize, repeats: usize) -> Result<Timing> {
    const QUEUE: usize = 4096;
    // Equal seeds: the copy begins as the query encoder.
    let (query, key) = (Momentum::new()?, Momentum::new()?);
    let mut optimizer = sgd(&query.params)?;
    let (a, b) = (normal("a", &[batch, 3, 32, 32])?, normal("b", &[batch, 3, 32, 32])?);
    let mut queue = l2_normalize(&normal("queue", &[QUEUE, 128])?)?;
    let train = Mode::train(&single());
    time_deep(2 * batch, repeats, || {
        ema_update(&key.params, &query.params, 0.996, Buffers::Keep)?;
        let q = query.forward(&a, &train)?;
        let k = key.forward(&b, &train.without_grad())?;
        let k = l2_normalize(&k)?;
        let out = info_nce_queue(&q, &k, &queue, 0.1, true)?;
        let gradients = Gradients::of(&query.params, &out.loss)?;
        optimizer.step(&gradients, 0.06)?;
        queue = Tensor::cat(&[&queue.narrow(0, batch, QUEUE - batch)?, &k], 0)?;
        Ok(())
    })
}
