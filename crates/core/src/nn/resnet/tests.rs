//! Selective kernels, ResNet-D's stem and shortcuts against PyTorch (`fixtures/nn/make_selective.py`).

use candle_core::{Device, Tensor, Var};
use serde_json::Value;

use super::block::{Block, Plan};
use super::pool::{ShortcutPool, StemPool};
use super::selective::Mix;
use super::stem::StemLayers;
use super::*;
use crate::dist::single;
use crate::nn::tests::{every, fill, input, l2_error, list, max_error, store, tensor};
use crate::nn::{BatchNormKind, ParamStore};
use crate::tensor::{GradCheck, check_gradients};

fn selective(base_width: usize) -> ResNetConfig {
    ResNetConfig {
        base_width,
        selective_kernels: Some(0.0625),
        shortcut: Shortcut::ProjectFirst,
        stem: Stem::ImagenetSame,
        ..ResNetConfig::torchvision(50)
    }
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/nn/selective.json")).expect("selective.json")
}

/// A training pass of `module` agrees with PyTorch's in output, gradients and running statistics.
fn trains_as(case: &Value, store: &ParamStore, module: &dyn MapModule) -> Result<()> {
    fill(store)?;
    let x = Var::from_tensor(&input(case)?)?;
    let y = module.forward_map(&FeatureMap::new(&x)?, &Mode::train(&single()))?.tensor()?;
    let shape: Vec<usize> = list(&case["output_shape"]).into_iter().map(|v| v as usize).collect();
    assert_eq!(y.dims(), shape);
    let step = case["step"].as_u64().expect("step") as usize;
    let error = max_error(&every(&y, step)?, &list(&case["output"]));
    assert!(error < 1e-5, "output: {error}");
    let grads = (&y * tensor("loss", y.shape())?)?.sum_all()?.backward()?;
    for (name, want) in case["gradients"].as_object().expect("gradients") {
        let step = case["gradient_steps"][name].as_u64().expect("step") as usize;
        let gradient = match store.get(name) {
            Some(entry) => grads.get(&entry.var),
            None => grads.get(&x),
        };
        // ReLU masks flip where rounding differs, hence l2 and not the maximum.
        let error = l2_error(&every(gradient.expect("gradient"), step)?, &list(want));
        assert!(error < 1e-3, "{name}: {error}");
    }
    for (name, want) in case["buffers"].as_object().expect("buffers") {
        let error = max_error(&every(&store.get(name).expect("buffer").var, 4)?, &list(want));
        assert!(error < 1e-5, "{name}: {error}");
    }
    Ok(())
}

#[test]
fn selective_blocks_train_as_in_pytorch() -> Result<()> {
    let fixture = fixture();
    for (key, inputs, stride, project) in
        [("block_stride1", 24, 1, true), ("block_stride2", 24, 2, true), ("block_plain", 32, 1, false)]
    {
        let store = store();
        let plan = Plan { inputs, middle: 8, outputs: 32, stride, bottleneck: true, project };
        let block = Block::new(&store.builder(), &selective(8), plan)?;
        trains_as(&fixture[key], &store, &block)?;
    }
    Ok(())
}

#[test]
fn deep_stems_train_as_in_pytorch() -> Result<()> {
    let fixture = fixture();
    for key in ["stem_even", "stem_mixed"] {
        let store = store();
        let stem = StemLayers::new(&store.builder(), &selective(8))?;
        trains_as(&fixture[key], &store, &stem)?;
    }
    Ok(())
}

#[test]
fn selective_resnets_evaluate_as_in_pytorch() -> Result<()> {
    let case = &fixture()["resnet50"];
    let store = store();
    let net = ResNet::new(&store.builder(), &selective(8))?;
    let mut names: Vec<String> = store.entries().into_iter().map(|entry| entry.name).collect();
    names.sort();
    let hash = names
        .join("\n")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    assert_eq!(names.len() as u64, case["names"].as_u64().expect("names"));
    assert_eq!(hash.to_string(), case["names_fnv1a64"].as_str().expect("hash"));
    fill(&store)?;
    let y = net.forward(&input(case)?, &Mode::eval())?;
    let error = max_error(&every(&y, 8)?, &list(&case["features"]));
    assert!(error < 1e-4, "{error}");
    Ok(())
}

/// 35 million in the table of the official repository.
#[test]
fn parameters_are_as_many_as_published() -> Result<()> {
    let store = store();
    ResNet::new(&store.builder(), &selective(64))?;
    let count: usize = store.parameters().iter().map(|entry| entry.var.elem_count()).sum();
    assert_eq!(count as u64, fixture()["resnet50"]["parameters_w64"].as_u64().expect("count"));
    assert_eq!((count as f64 / 1e6).round(), 35.0);
    Ok(())
}

#[test]
fn gradients_match_differences() -> Result<()> {
    let (store, device) = (store(), Device::Cpu);
    let mix = Mix::new(&store.builder(), &selective(8), 3, 0.0625)?;
    fill(&store)?;
    assert_eq!(store.get("squeeze.weight").expect("squeeze").var.dims(), [32, 3, 1, 1]);
    let mode = Mode::train(&single()).with_running_statistics();
    check_gradients(&[tensor("x", (2, 6, 3, 2))?], GradCheck::default(), |x| {
        mix.forward_map(&FeatureMap::new(&x[0])?, &mode)?.tensor()
    })?;
    for stride in [1, 2] {
        let pool = ShortcutPool::new(2, stride, &device)?;
        check_gradients(&[tensor("x", (2, 2, 5, 4))?], GradCheck::default(), |x| {
            pool.forward(&FeatureMap::new(&x[0])?)?.tensor()
        })?;
    }
    let same = ResNetConfig { padding: Padding::Same, ..ResNetConfig::torchvision(18) };
    for (kernel, shape) in [(3, (2, 2, 6, 5)), (1, (2, 2, 5, 4)), (7, (2, 2, 6, 7))] {
        let conv = same.conv(&self::store().builder(), [2, 3], kernel, 2)?;
        check_gradients(&[tensor("x", shape)?], GradCheck::default(), |x| {
            conv.forward_map(&FeatureMap::new(&x[0])?, &mode)?.tensor()
        })?;
    }
    let distinct: Vec<f32> = (0..2 * 2 * 6 * 5).map(|i| (i * 37 % 120) as f32 / 10.0).collect();
    let distinct = Tensor::from_vec(distinct, (2, 2, 6, 5), &device)?;
    let pool = StemPool::same(2, &device)?;
    check_gradients(&[distinct], GradCheck::default(), |x| pool.forward(&FeatureMap::new(&x[0])?)?.tensor())
}

/// Where all streams weigh the same, the two are averaged; where one has by far the larger logit, it passes alone.
#[test]
fn streams_compete() -> Result<()> {
    let store = store();
    let mix = Mix::new(&store.builder(), &selective(8), 1, 0.0625)?;
    let streams = Tensor::new(&[[[[1f32, 2.0]], [[3.0, 8.0]]]], &Device::Cpu)?;
    let out = |sign: f32| -> Result<Vec<f32>> {
        let expand = store.get("expand.weight").expect("expand").var;
        let weights: Vec<f32> = (0..64).map(|i| if i < 32 { sign } else { -sign }).collect();
        expand.set(&Tensor::from_vec(weights, expand.shape(), &Device::Cpu)?)?;
        let squeeze = store.get("squeeze.weight").expect("squeeze").var;
        squeeze.set(&squeeze.ones_like()?)?;
        let y = mix.forward_map(&FeatureMap::new(&streams)?, &Mode::eval())?.tensor()?;
        Ok(y.flatten_all()?.to_vec1::<f32>()?)
    };
    assert_eq!(out(0.0)?, [2.0, 5.0]);
    assert_eq!(out(1e6)?, [1.0, 2.0]);
    assert_eq!(out(-1e6)?, [3.0, 8.0]);
    Ok(())
}

#[test]
fn settings_are_checked_and_named() -> Result<()> {
    let config = selective(64);
    assert_eq!(config.to_string(), "resnet50-sk-project-same");
    assert_eq!(
        ResNetConfig { width_multiplier: 3, depth: 152, ..config }.to_string(),
        "resnet152-x3-sk-project-same"
    );
    for (bad, key) in [
        (ResNetConfig { depth: 18, ..config }, "selective_kernels"),
        (ResNetConfig { selective_kernels: Some(0.0), ..config }, "selective_kernels"),
        (ResNetConfig { selective_kernels: Some(f64::NAN), ..config }, "selective_kernels"),
        (ResNetConfig { depth: 21, ..config }, "depth"),
        (ResNetConfig { base_width: 0, ..config }, "base_width"),
    ] {
        let error = bad.check("method.backbone").expect_err("must be refused").to_string();
        assert!(error.contains(&format!("method.backbone.{key}")), "{error}");
        assert!(ResNet::new(&store().builder(), &bad).is_err());
    }
    let again = |config: &ResNetConfig| -> ResNetConfig {
        serde_json::from_value(serde_json::to_value(config).expect("json")).expect("config")
    };
    assert_eq!(again(&config), config);
    // Files that were written before there were selective kernels are read as they were meant.
    let mut old = serde_json::to_value(ResNetConfig::torchvision(50)).expect("json");
    assert!(old.as_object_mut().expect("table").remove("selective_kernels").is_some());
    assert_eq!(serde_json::from_value::<ResNetConfig>(old).expect("config"), ResNetConfig::torchvision(50));
    assert_eq!(config.norm, BatchNormKind::Local);
    Ok(())
}
