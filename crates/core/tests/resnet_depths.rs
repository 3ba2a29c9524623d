//! The deeper ResNets against torchvision: names, and features with the same weights (`fixtures/nn/make_resnet.py`). The
//! others, gradients and statistics are compared in the unit tests.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use contrastive_core::nn::{Mode, Module, ParamStore, ResNet, ResNetConfig};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    /// Every eighth.
    features: Vec<f64>,
    names: usize,
    names_fnv1a64: String,
}

fn fnv1a64(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The script's formula.
fn uniform(name: &str, n: usize) -> impl Iterator<Item = f64> {
    let hash = fnv1a64(name);
    (0..n as u64).map(move |i| {
        let mut z = hash.wrapping_add(i).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

fn weights(store: &ParamStore) -> anyhow::Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    for entry in store.entries() {
        let dims = entry.var.dims().to_vec();
        let fan_in = dims.iter().skip(1).product::<usize>() as f64;
        let scale = |u: f64| match dims.len() {
            4 => u * (6.0 / fan_in).sqrt(),
            _ if entry.name.ends_with("running_var") => 1.0 + 0.5 * u,
            _ if entry.name.ends_with("weight") => 1.0 + 0.25 * u,
            _ => 0.25 * u,
        };
        let values: Vec<f32> =
            uniform(&entry.name, entry.var.elem_count()).map(|u| scale(u) as f32).collect();
        tensors.insert(entry.name.clone(), Tensor::from_vec(values, dims, &Device::Cpu)?);
    }
    Ok(tensors)
}

#[test]
fn deep_resnets_evaluate_as_torchvision() -> anyhow::Result<()> {
    let cases: BTreeMap<usize, Case> = serde_json::from_str(include_str!("fixtures/nn/resnet_depths.json"))?;
    assert_eq!(cases.keys().copied().collect::<Vec<_>>(), [34, 101, 152, 200]);
    let pixels: Vec<f32> = uniform("input", 3 * 64 * 64).map(|u| u as f32).collect();
    let x = Tensor::from_vec(pixels, (1, 3, 64, 64), &Device::Cpu)?;
    for (depth, case) in cases {
        let store = ParamStore::new(0, &Device::Cpu);
        let net = ResNet::new(&store.builder(), &ResNetConfig::torchvision(depth))?;
        let mut names: Vec<String> = store.entries().into_iter().map(|entry| entry.name).collect();
        names.sort();
        let hash = fnv1a64(&names.join("\n")).to_string();
        assert_eq!((names.len(), &hash), (case.names, &case.names_fnv1a64), "ResNet-{depth}");
        store.load(&weights(&store)?, "formula")?;
        let y = net.forward(&x, &Mode::eval())?.flatten_all()?.to_vec1::<f32>()?;
        let largest = case.features.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        assert_eq!(y.len().div_ceil(8), case.features.len());
        for (got, want) in y.iter().step_by(8).zip(&case.features) {
            let error = (f64::from(*got) - want).abs() / largest;
            assert!(error < 1e-4, "ResNet-{depth}: {got}, torchvision {want}");
        }
    }
    Ok(())
}
