use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use contrastive_core::nn::{BackboneConfig, Mode, Module, ParamStore, ResNet, ResNetConfig, Shortcut, Stem};
use contrastive_core::weights::{Hints, Pretrained, save_named};
use contrastive_testing::formula;

use super::*;

#[derive(serde::Deserialize)]
struct Golden {
    side: usize,
    convolutions: usize,
    norms: usize,
    features: Vec<f32>,
}

fn numbered(kind: &str, i: usize) -> String {
    format!("base_model/{kind}{}", if i == 0 { String::new() } else { format!("_{i}") })
}

/// The values of a variable, by the formula of `fixtures/make_selective.py`.
fn values(name: &str, dims: &[usize]) -> Result<Tensor> {
    let fan_in: usize = dims.iter().rev().skip(1).product();
    let scale = |u: f64| match name.rsplit('/').next() {
        Some("kernel") => u * (6.0 / fan_in as f64).sqrt(),
        Some("gamma") => 1.0 + 0.25 * u,
        Some("moving_variance") => 1.0 + 0.5 * u,
        _ => 0.25 * u,
    };
    let values: Vec<f32> =
        formula(name, dims.iter().product()).into_iter().map(|u| scale(u) as f32).collect();
    Ok(Tensor::from_vec(values, dims, &Device::Cpu)?)
}

/// A ResNet-50 of four channels with selective kernels under TensorFlow's names. Shapes are those of the network here,
/// whatever the names; values follow the names, so a wrong order has other features.
fn variables(places: &[Place], config: &ResNetConfig) -> Result<BTreeMap<String, Tensor>> {
    let params = ParamStore::new(0, &Device::Cpu);
    ResNet::new(&params.builder(), config)?;
    let dims = |name: String| params.get(&name).map(|e| e.var.dims().to_vec()).unwrap_or_default();
    let (mut all, mut norms) = (BTreeMap::new(), 0);
    for (i, (conv, norm)) in places.iter().enumerate() {
        let &[o, i_, h, w] = dims(format!("{conv}.weight")).as_slice() else { panic!("{conv}") };
        let name = format!("{}/kernel", numbered("conv2d", i));
        all.insert(name.clone(), values(&name, &[h, w, i_, o])?);
        if norm.is_some() {
            for (theirs, _) in NORM {
                let name = format!("{}/{theirs}", numbered("batch_normalization", norms));
                all.insert(name.clone(), values(&name, &[o])?);
            }
            norms += 1;
        }
    }
    Ok(all)
}

#[test]
fn selective_kernels_have_the_features_of_the_official_order() -> anyhow::Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("../../tests/fixtures/selective.json"))?;
    let config = ResNetConfig {
        base_width: 4,
        selective_kernels: Some(0.0625),
        stem: Stem::ImagenetSame,
        shortcut: Shortcut::ProjectFirst,
        ..ResNetConfig::torchvision(50)
    };
    let all = variables(&places(&[3, 4, 6, 3], Kind::Selective), &config)?;
    let count = |leaf: &str| all.keys().filter(|name| name.ends_with(leaf)).count();
    assert_eq!((count("kernel"), count("gamma")), (golden.convolutions, golden.norms));
    let folder = tempfile::tempdir()?;
    let index = folder.path().join("model.index");
    std::fs::write(&index, "index")?;
    let names = all.keys().map(String::as_str).collect();
    let named = arranged(&index, &names, &|name| Ok(all[name].clone()), "simclr-v2")?;
    assert_eq!(named.left_out, 0);
    let out = folder.path().join("out");
    save_named(&named, &index, &out)?;
    // The manifest alone says how the pool is padded.
    let read = Pretrained::open(&out, Hints::default())?;
    let BackboneConfig::Resnet(found) = read.config else { panic!("{}", read.config) };
    assert_eq!(
        (found.selective_kernels, found.stem, found.base_width),
        (Some(0.0625), Stem::ImagenetSame, 4)
    );
    let x: Vec<f32> = formula("input", 3 * golden.side * golden.side).into_iter().map(|u| u as f32).collect();
    let x = Tensor::from_vec(x, (1, 3, golden.side, golden.side), &Device::Cpu)?;
    let features = read.build(&Device::Cpu)?.0.forward(&x, &Mode::eval())?.flatten_all()?.to_vec1::<f32>()?;
    let largest = golden.features.iter().fold(0f32, |m, x| m.max(x.abs()));
    assert_eq!(features.len(), golden.features.len());
    for (ours, theirs) in features.iter().zip(&golden.features) {
        assert!((ours - theirs).abs() <= 1e-4 * largest, "{ours} {theirs}");
    }
    // Without its last batch norm it is no network of theirs.
    let last = numbered("batch_normalization", golden.norms - 1);
    let names = all.keys().map(String::as_str).filter(|name| !name.starts_with(&last)).collect();
    let refused = arranged(&index, &names, &|name| Ok(all[name].clone()), "simclr-v2");
    assert!(refused.is_err_and(|e| e.to_string().contains("87 convolutions and 70 batch norms")));
    Ok(())
}
