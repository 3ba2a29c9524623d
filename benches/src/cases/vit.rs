//! Vision transformers: a DINO step and embedding.

use anyhow::Result;
use candle_core::{D, Device, Tensor};
use contrastive_core::dist::single;
use contrastive_core::kernels::{FeatureMap, gelu, linear};
use contrastive_core::loss::soft_cross_entropy;
use contrastive_core::nn::{
    Encoder, Init, Linear, Mode, Module, Noise, ParamStore, VisionTransformer, VitConfig,
};
use contrastive_core::optim::{AdamConfig, Gradients, OptimizerConfig, ParamGroups};
use contrastive_core::state::{Buffers, ema_update};
use contrastive_core::tensor::l2_normalize;

use super::embed::embed;
use super::normal;
use super::steps::time_deep;
use crate::measure::Timing;

pub(super) fn embed_vits16_224(batch: usize, repeats: usize) -> Result<Timing> {
    let params = ParamStore::new(0, &Device::Cpu);
    embed(&VisionTransformer::new(&params.builder(), &VitConfig::small(16))?, 224, batch, repeats)
}

const OUTPUTS: usize = 8192;
const BOTTLENECK: usize = 256;

/// ViT-S/16 and DINO's head: three layers, l2 normalisation, a last layer with rows of norm 1.
struct Network {
    params: ParamStore,
    backbone: VisionTransformer,
    layers: [Linear; 3],
    last: Tensor,
}

impl Network {
    fn new(drop_path: f64) -> Result<Self> {
        let params = ParamStore::new(0, &Device::Cpu);
        let b = params.builder();
        let backbone = VisionTransformer::new(&b, &VitConfig { drop_path, ..VitConfig::small(16) })?;
        let h = b.pp("head");
        let layer = |place: usize, inputs: usize, outputs: usize| {
            Linear::new(&h.pp(place), inputs, outputs, Init::TruncatedNormal(0.02), Some(Init::Const(0.0)))
        };
        let layers = [layer(0, backbone.width(), 2048)?, layer(2, 2048, 2048)?, layer(4, 2048, BOTTLENECK)?];
        let last = h.param("last_layer", (OUTPUTS, BOTTLENECK), Init::TorchDefault)?;
        Ok(Self { params, backbone, layers, last })
    }

    fn head(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        let [first, second, third] = &self.layers;
        let x = gelu(&first.forward_rows(&FeatureMap::from_rows(x)?, mode)?)?;
        let x = gelu(&second.forward_rows(&x, mode)?)?;
        let x = l2_normalize(&third.forward_rows(&x, mode)?.rows()?)?;
        let last = l2_normalize(&mode.weight(&self.last))?;
        Ok(linear(&FeatureMap::from_rows(&x)?, &last, None)?.rows()?)
    }
}

fn softmax(logits: &Tensor) -> Result<Tensor> {
    let weights = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?)
}

/// The cross-entropy of every student view with every other teacher view; `teacher` holds probabilities.
fn dino_loss(student: &[Tensor], teacher: &[Tensor]) -> Result<Tensor> {
    let (mut total, mut pairs) = (Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?, 0.0);
    for (i, t) in teacher.iter().enumerate() {
        for (j, s) in student.iter().enumerate() {
            if i != j {
                total = (total + soft_cross_entropy(&(s / 0.1)?, t)?)?;
                pairs += 1.0;
            }
        }
    }
    Ok((total / pairs)?)
}

pub(super) fn dino_vits16_224(batch: usize, repeats: usize) -> Result<Timing> {
    // Equal seeds: the teacher begins as the student.
    let (student, teacher) = (Network::new(0.1)?, Network::new(0.0)?);
    let adam = OptimizerConfig::AdamW(AdamConfig { weight_decay: 0.04, ..AdamConfig::default() });
    let mut optimizer = adam.build(&student.params, &ParamGroups::new())?;
    let global = normal("global", &[2 * batch, 3, 224, 224])?;
    let local = normal("local", &[4 * batch, 3, 96, 96])?;
    let mut center = Tensor::zeros((1, OUTPUTS), candle_core::DType::F32, &Device::Cpu)?;
    let mode = Mode::train(&single());
    let mut step = 0;
    let noisy = |step: u64, views: std::ops::Range<u64>| {
        let rows = views.flat_map(|view| (0..batch as u64).map(move |sample| (sample, view))).collect();
        mode.with_noise(Noise { seed: 0, step, rows })
    };
    time_deep(8 * batch, repeats, || {
        ema_update(&teacher.params, &student.params, 0.996, Buffers::Keep)?;
        let still = mode.without_grad();
        let t = teacher.head(&teacher.backbone.forward(&global, &still)?, &still)?;
        let features = Tensor::cat(
            &[
                student.backbone.forward(&global, &noisy(step, 0..2))?,
                student.backbone.forward(&local, &noisy(step, 2..6))?,
            ],
            0,
        )?;
        let s = student.head(&features, &mode)?;
        let probabilities = softmax(&(t.broadcast_sub(&center)? / 0.04)?)?;
        let loss = dino_loss(&s.chunk(6, 0)?, &probabilities.chunk(2, 0)?)?;
        let mut gradients = Gradients::of(&student.params, &loss)?;
        gradients.clip_norm(3.0)?;
        optimizer.step(&gradients, 5e-4)?;
        center = ((center.clone() * 0.9)? + (t.mean_keepdim(0)? * 0.1)?)?;
        step += 1;
        Ok(())
    })
}
