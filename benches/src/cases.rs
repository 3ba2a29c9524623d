//! The cases. Names and work are those of the PyTorch scripts that they are held against.

use std::io::Cursor;

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use contrastive_core::augment::{
    BlurKernel, ColorSpace, IMAGENET_MEAN, IMAGENET_STD, Image, Op, Recipe, ViewRecipe,
};
use contrastive_core::data::{Array, Batch, Batches, InMemory, Loader, LoaderOptions, Transform, decode};
use contrastive_core::dist::single;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::loss::nt_xent;
use contrastive_core::nn::ResNetConfig;
use contrastive_core::optim::{Gradients, OptimizerConfig, ParamGroups, SgdConfig};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::{Progress, with_big_stack};
use contrastive_simclr::{HeadConfig, HeadStyle, LossForm, SimClrConfig};

use crate::Case;
use crate::measure::{Timing, time};

/// Every case.
pub const ALL: &[Case] = &[
    Case {
        name: "simclr_r18_32",
        about: "SimCLR step: ResNet-18 with a CIFAR stem, 32x32, head 512-512-128, SGD with momentum",
        batch: 64,
        run: simclr_r18_32,
    },
    Case {
        name: "simclr_r50_224",
        about: "SimCLR step: ResNet-50, 224x224, head 2048-2048-128, SGD with momentum",
        batch: 8,
        run: simclr_r50_224,
    },
    Case {
        name: "nt_xent_512",
        about: "NT-Xent, 512 embeddings of 128, forward and backward",
        batch: 512,
        run: nt_xent_n,
    },
    Case { name: "nt_xent_4096", about: "the same with 4,096 embeddings", batch: 4096, run: nt_xent_n },
    Case { name: "nt_xent_16384", about: "the same with 16,384 embeddings", batch: 16384, run: nt_xent_n },
    Case {
        name: "augment_cifar",
        about: "SimCLR's views (2 per image, with blur) of 2,048 decoded 32x32 images, 2 workers",
        batch: 64,
        run: augment_cifar,
    },
    Case {
        name: "augment_jpeg",
        about: "SimCLR's views (2 per image) of 200 JPEGs of 500x375, 2 workers, 224x224",
        batch: 32,
        run: augment_jpeg,
    },
];

fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(1234, Purpose::Data).name(name).stream();
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| stream.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn simclr_step(
    backbone: ResNetConfig,
    hidden: usize,
    size: usize,
    batch: usize,
    repeats: usize,
) -> Result<Timing> {
    let config = SimClrConfig {
        backbone,
        head: HeadConfig { hidden: Some(hidden), output: 128, layers: 2, style: HeadStyle::Torch },
        temperature: 0.5,
        loss: LossForm::Paper,
        sync_batch_norm: false,
    };
    let mut method = config.build(0, &Device::Cpu)?;
    let sgd = OptimizerConfig::Sgd(SgdConfig { weight_decay: 5e-4, ..SgdConfig::default() });
    let mut optimizer = sgd.build(method.params(), &ParamGroups::new())?;
    let data = Batch {
        views: vec![normal("a", &[batch, 3, size, size])?, normal("b", &[batch, 3, size, size])?],
        indices: (0..batch as u64).collect(),
        labels: None,
    };
    let progress =
        Progress { seed: 0, step: 0, total_steps: 1, epoch: 0, total_epochs: 1, steps_per_epoch: 1 };
    let comm = single();
    let mut result = None;
    with_big_stack(|| {
        let timing = time(2 * batch, repeats, || {
            let out = method.step(&data, &comm, &progress)?;
            let gradients = Gradients::of(method.params(), &out.loss)?;
            optimizer.step(&gradients, 0.06)?;
            Ok(())
        });
        result = Some(timing);
        Ok(())
    })?;
    result.unwrap_or_else(|| anyhow::bail!("the benchmark's thread gave nothing back"))
}

fn simclr_r18_32(batch: usize, repeats: usize) -> Result<Timing> {
    simclr_step(ResNetConfig::cifar(18), 512, 32, batch, repeats)
}

fn simclr_r50_224(batch: usize, repeats: usize) -> Result<Timing> {
    simclr_step(ResNetConfig::torchvision(50), 2048, 224, batch, repeats)
}

fn nt_xent_n(n: usize, repeats: usize) -> Result<Timing> {
    let z1 = Var::from_tensor(&normal("z1", &[n / 2, 128])?)?;
    let z2 = Var::from_tensor(&normal("z2", &[n / 2, 128])?)?;
    let comm = single();
    time(n, repeats, || {
        let out = nt_xent(&z1, &z2, 0.5, true, &comm)?;
        out.loss.backward()?;
        Ok(())
    })
}

/// SimCLR's views with PIL's blur, as lightly makes them.
fn recipe(size: usize, s: f64) -> Recipe {
    let ops = vec![
        Op::RandomResizedCrop {
            size,
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            interpolation: Default::default(),
        },
        Op::RandomFlip { p: 0.5 },
        Op::ColorJitter { brightness: 0.8 * s, contrast: 0.8 * s, saturation: 0.8 * s, hue: 0.2 * s, p: 0.8 },
        Op::RandomGrayscale { p: 0.2 },
        Op::RandomBlur { p: 0.5, sigma: [0.1, 2.0], kernel: BlurKernel::Pil },
        Op::Normalize { mean: IMAGENET_MEAN.to_vec(), std: IMAGENET_STD.to_vec() },
    ];
    Recipe { color: ColorSpace::Rgb, views: vec![ViewRecipe { name: "view".into(), count: 2, ops }] }
}

/// A picture with edges, gradients and a little noise.
fn picture(width: usize, height: usize, seed: u64) -> Result<Image> {
    let mut stream = Key::new(seed, Purpose::Data).name("picture").stream();
    let (fx, fy) = (stream.uniform(0.01, 0.2), stream.uniform(0.01, 0.2));
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let wave = (x as f64 * fx).sin() + (y as f64 * fy).cos();
            let edge = if (x / 40 + y / 40) % 2 == 0 { 40.0 } else { 0.0 };
            for c in 0..3 {
                let value = 100.0 + 40.0 * wave + edge + 15.0 * f64::from(c) + stream.uniform(-6.0, 6.0);
                data.push(value.clamp(0.0, 255.0) as u8);
            }
        }
    }
    Ok(Image::new(width, height, 3, data)?)
}

/// One pass of the loader over a source.
fn epoch<B: Batches>(loader: &B, items: usize, repeats: usize) -> Result<Timing> {
    let mut epoch = 0;
    time(items, repeats, || {
        for batch in loader.epoch(epoch, 0) {
            batch?;
        }
        epoch += 1;
        Ok(())
    })
}

fn options(batch: usize) -> LoaderOptions {
    LoaderOptions { workers: 2, drop_last: false, ..LoaderOptions::new(batch, 0) }
}

fn augment_cifar(batch: usize, repeats: usize) -> Result<Timing> {
    let images = (0..2048).map(|i| picture(32, 32, i)).collect::<Result<Vec<_>>>()?;
    let source = InMemory::unlabelled("pictures", images)?;
    epoch(&Loader::new(source, recipe(32, 0.5), options(batch))?, 2 * 2048, repeats)
}

/// Decodes, then augments: a source of files without the disk.
struct Jpeg {
    files: Vec<Vec<u8>>,
    views: Recipe,
}

impl Transform<Image> for Jpeg {
    fn apply(&self, sample: &Image, key: Key) -> contrastive_core::Result<Vec<Array>> {
        // The sample is a 1x1 stand-in; its key says which file is meant.
        let _ = sample;
        let file = &self.files[key.sample as usize % self.files.len()];
        self.views.apply(&decode::decode(file, "picture.jpg".as_ref())?, key)
    }
}

fn augment_jpeg(batch: usize, repeats: usize) -> Result<Timing> {
    const FILES: usize = 200;
    let mut files = Vec::with_capacity(FILES);
    for i in 0..FILES {
        let picture = picture(500, 375, i as u64)?;
        let mut bytes = Cursor::new(Vec::new());
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
        image::ImageEncoder::write_image(encoder, &picture.data, 500, 375, image::ExtendedColorType::Rgb8)?;
        files.push(bytes.into_inner());
    }
    let stand_ins = (0..FILES).map(|_| Image::new(1, 1, 3, vec![0; 3])).collect::<Result<Vec<_>, _>>()?;
    let source = InMemory::unlabelled("pictures", stand_ins)?;
    let transform = Jpeg { files, views: recipe(224, 1.0) };
    epoch(&Loader::new(source, transform, options(batch))?, 2 * FILES, repeats)
}
