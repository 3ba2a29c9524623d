use candle_core::{DType, Device, Tensor};

use super::*;
use crate::nn::{Backbone, BackboneConfig, ParamStore};
use crate::rng::{Key, Purpose};

fn tiny(init: PatchInit) -> PatchNetConfig {
    PatchNetConfig {
        in_channels: 2,
        patch: 8,
        stride: 4,
        stem: PatchStem::Conv3,
        channels: 2,
        blocks: [2, 1, 1],
        init,
    }
}

fn noise(shape: [usize; 4]) -> Result<Tensor> {
    let mut stream = Key::new(5, Purpose::Data).stream();
    let values = (0..shape.iter().product::<usize>()).map(|_| stream.normal() as f32).collect::<Vec<_>>();
    Ok(Tensor::from_vec(values, shape.to_vec(), &Device::Cpu)?)
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

#[test]
fn vectors_belong_to_their_patches() -> Result<()> {
    let store = ParamStore::new(1, &Device::Cpu);
    let config = tiny(PatchInit::Torch);
    let net = PatchNet::new(&store.builder(), &config)?;
    let x = noise([2, 2, 16, 20])?;
    let vectors = net.vectors(&x, None, &Mode::eval())?;
    assert_eq!((vectors.dims(), net.width()), (&[2usize, 3, 4, 32][..], 32));
    // The patch by itself, and pixels outside of it that change.
    let alone = net.forward(&x.narrow(2, 4, 8)?.narrow(3, 8, 8)?, &Mode::eval())?;
    for (a, b) in values(&alone.get(1)?)?.iter().zip(values(&vectors.get(1)?.get(1)?.get(2)?)?) {
        assert!((a - b).abs() < 1e-5, "{a}, {b}");
    }
    let mean = vectors.flatten(1, 2)?.mean(1)?;
    assert_eq!(values(&mean)?, values(&net.forward(&x, &Mode::eval())?)?);
    Ok(())
}

/// In the middle of every tensor, by differences.
#[test]
fn every_kind_of_parameter_has_its_gradient() -> Result<()> {
    for init in [PatchInit::Torch, PatchInit::Scaled] {
        let store = ParamStore::new(3, &Device::Cpu);
        let net = PatchNet::new(&store.builder(), &tiny(init))?;
        // Where a ReLU gave nothing but zeros, the next one would stand on its bend with a bias of 0.
        for entry in store.parameters().iter().filter(|entry| entry.name.ends_with("bias")) {
            let bias = noise([1, 1, 1, entry.var.elem_count()])?.reshape(entry.var.shape())?;
            entry.var.set(&(bias * 0.1)?)?;
        }
        let x = noise([2, 2, 12, 12])?;
        let weights = noise([2, 2, 2, 32])?.to_dtype(DType::F64)?;
        let loss = || -> Result<Tensor> {
            let vectors = net.vectors(&x, None, &Mode::train(&crate::dist::single()))?;
            Ok((vectors.to_dtype(DType::F64)? * &weights)?.sum_all()?)
        };
        let gradients = crate::optim::Gradients::of(&store, &loss()?)?;
        for entry in store.parameters() {
            let analytic = values(gradients.get(&entry.name).expect("a gradient"))?;
            let before = values(&entry.var)?;
            let place = before.len() / 2;
            // Short, so that few of the ReLUs change sides on the way.
            let step = 2e-4f32;
            let at = |delta: f32| -> Result<f64> {
                let mut moved = before.clone();
                moved[place] += delta;
                entry.var.set(&Tensor::from_vec(moved, entry.var.shape(), &Device::Cpu)?)?;
                Ok(loss()?.to_scalar::<f64>()?)
            };
            let numeric = (at(step)? - at(-step)?) / f64::from(2.0 * step);
            at(0.0)?;
            let gap = (numeric - f64::from(analytic[place])).abs();
            assert!(
                gap < 0.03 + 0.05 * numeric.abs(),
                "{init:?} {}: {}, {numeric}",
                entry.name,
                analytic[place]
            );
        }
    }
    Ok(())
}

/// Through 13 blocks.
#[test]
fn scaled_weights_keep_the_size_of_vectors() -> Result<()> {
    let spread = |init| -> Result<f32> {
        let config = PatchNetConfig { channels: 8, blocks: [3, 4, 6], ..tiny(init) };
        let net = PatchNet::new(&ParamStore::new(2, &Device::Cpu).builder(), &config)?;
        let vectors = net.vectors(&noise([4, 2, 16, 16])?, None, &Mode::eval())?;
        Ok(vectors.sqr()?.mean_all()?.to_scalar::<f32>()?.sqrt())
    };
    let (torch, scaled) = (spread(PatchInit::Torch)?, spread(PatchInit::Scaled)?);
    assert!((0.2..5.0).contains(&scaled) && torch < scaled, "{torch}, {scaled}");
    Ok(())
}

#[test]
fn published_shapes() -> Result<()> {
    let (paper, greedy) = (PatchNetConfig::paper(), PatchNetConfig::greedy_infomax());
    assert_eq!((paper.grid(256, 256)?, paper.width()), ([7, 7], 1024));
    assert_eq!((greedy.grid(64, 64)?, greedy.width()), ([7, 7], 1024));
    assert_eq!(greedy.to_string(), "preact-3-4-6-p16s8");
    let narrow = PatchNetConfig { channels: 2, ..paper };
    let store = ParamStore::new(0, &Device::Cpu);
    let net = Backbone::new(&store.builder(), &BackboneConfig::Patches(narrow))?;
    let x = Tensor::zeros((1, 1, 96, 64), DType::F32, &Device::Cpu)?;
    assert_eq!(net.forward(&x, &Mode::eval())?.dims(), [1, 32]);
    // Three convolutions in each of 30 blocks, three shortcuts and the stem; a weight and a bias each.
    assert_eq!(store.parameters().len(), 2 * (3 * 30 + 3 + 1));
    assert!(paper.grid(63, 256).is_err());
    for (key, config) in [
        ("stride", PatchNetConfig { stride: 65, ..paper }),
        ("channels", PatchNetConfig { channels: 0, ..paper }),
        ("blocks", PatchNetConfig { blocks: [1, 0, 1], ..paper }),
    ] {
        let refused = config.check("method.encoder").expect_err("refused").to_string();
        assert!(refused.contains(&format!("method.encoder.{key}")), "{refused}");
    }
    Ok(())
}
