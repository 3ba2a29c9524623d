//! The cases. Names and work are those of the Python scripts that they are held against.

mod embed;
mod evaluation;
mod images;
mod losses;
mod micro;
mod startup;
mod steps;
mod vit;

pub use images::write_pictures;

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::rng::{Key, Purpose};

use crate::Case;
use crate::measure::Timing;

type Run = fn(usize, usize) -> Result<Timing>;

const fn case(name: &'static str, batch: usize, run: Run, about: &'static str) -> Case {
    Case { name, about, batch, run }
}

/// Every case.
pub const ALL: &[Case] = &[
    case(
        "simclr_r18_32",
        64,
        steps::simclr_r18_32,
        "SimCLR step: ResNet-18 with a CIFAR stem, 32x32, head 512-512-128, SGD with momentum",
    ),
    case(
        "simclr_cached_r18_32",
        4096,
        steps::simclr_cached_r18_32,
        "the same by gradient caching in chunks of 64 images of both views",
    ),
    case(
        "simclr_r50_224",
        8,
        steps::simclr_r50_224,
        "SimCLR step: ResNet-50, 224x224, head 2048-2048-128, SGD with momentum",
    ),
    case(
        "moco_r18_32",
        64,
        steps::moco_r18_32,
        "MoCo step: query forward and backward, key forward by a momentum copy, queue of 4,096 x 128",
    ),
    case(
        "dino_vits16_224",
        4,
        vit::dino_vits16_224,
        "DINO step: ViT-S/16, two crops of 224 and four of 96, 8,192 outputs, AdamW",
    ),
    case("embed_r18_32", 128, embed::embed_r18_32, "embedding: ResNet-18 with a CIFAR stem, 32x32"),
    case("embed_r50_224", 32, embed::embed_r50_224, "embedding: ResNet-50, 224x224"),
    case("embed_vits16_224", 32, vit::embed_vits16_224, "embedding: ViT-S/16, 224x224"),
    case(
        "augment_cifar",
        64,
        images::augment_cifar,
        "SimCLR's views (2 per image, with blur) of 2,048 decoded 32x32 images, 2 workers",
    ),
    case(
        "augment_jpeg",
        32,
        images::augment_jpeg,
        "SimCLR's views (2 per image) of 200 JPEGs of 500x375, 2 workers, 224x224",
    ),
    case("decode_jpeg", 200, images::decode_jpeg, "200 JPEGs of 500x375 to RGB, 1 thread"),
    case("nt_xent_512", 512, losses::nt_xent_n, "NT-Xent, 512 embeddings of 128, forward and backward"),
    case("nt_xent_4096", 4096, losses::nt_xent_n, "the same with 4,096 embeddings"),
    case("nt_xent_16384", 16384, losses::nt_xent_n, "the same with 16,384 embeddings"),
    case(
        "knn",
        10_000,
        evaluation::knn,
        "weighted kNN (k = 200, t = 0.1): 10,000 queries against 50,000 features of 128, 10 classes",
    ),
    case(
        "linear_probe",
        50_000,
        evaluation::linear_probe,
        "logistic regression by L-BFGS on 50,000 features of 512, 10 classes, and its test on 10,000",
    ),
    case("micro_conv_64", 64, micro::conv_64, "one 3x3 convolution of 64 channels at 32x32, GFLOP/s"),
    case("micro_conv_r18", 128, micro::conv_r18, "the convolutions of a CIFAR ResNet-18, GFLOP/s of each"),
    case("micro_conv_r50", 8, micro::conv_r50, "the convolutions of a ResNet-50 at 224x224, GFLOP/s of each"),
    case(
        "startup",
        64,
        startup::startup,
        "process start to the end of a first SimCLR step on embedded images",
    ),
    case("first_step", 64, startup::first_step, "what `startup` starts: everything up to one step, once"),
];

/// Standard normal values.
fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = Key::new(1234, Purpose::Data).name(name).stream();
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| stream.normal() as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
