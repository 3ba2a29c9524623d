//! Layers, heads and ResNets against torchvision, against differences, and outside the graph.

use std::collections::HashMap;

use candle_core::{Device, Shape, Tensor};
use serde_json::Value;

use super::*;
use crate::dist::single;
use crate::rng::{Key, Purpose};
use crate::tensor::{GradCheck, check_gradients};

/// Element `i` of the tensor `name`, by the formula in `make_resnet.py`.
pub(super) fn formula(name: &str, n: usize) -> Vec<f64> {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let value = |i: u64| {
        let mut z = hash.wrapping_add(i).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (0..n as u64).map(value).collect()
}

pub(super) fn tensor(name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    let values: Vec<f32> = formula(name, shape.elem_count()).iter().map(|&u| u as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

pub(super) fn fill(store: &ParamStore) -> Result<()> {
    let mut tensors = HashMap::new();
    for entry in store.entries() {
        let (name, dims) = (entry.name, entry.var.dims());
        let fan_in = dims.iter().skip(1).product::<usize>() as f64;
        let scale = |u: f64| match dims.len() {
            4 => u * (6.0 / fan_in).sqrt(),
            _ if name.ends_with("running_var") => 1.0 + 0.5 * u,
            _ if name.ends_with("weight") => 1.0 + 0.25 * u,
            _ => 0.25 * u,
        };
        let values: Vec<f32> =
            formula(&name, entry.var.elem_count()).into_iter().map(|u| scale(u) as f32).collect();
        tensors.insert(name.clone(), Tensor::from_vec(values, dims, &Device::Cpu)?);
    }
    store.load(&tensors, "formula")
}

fn fixture() -> Value {
    let text = include_str!("../../tests/fixtures/nn/resnet.json");
    serde_json::from_str(text).expect("resnet.json")
}

pub(super) fn list(value: &Value) -> Vec<f64> {
    value.as_array().expect("list").iter().map(|v| v.as_f64().expect("number")).collect()
}

pub(super) fn every(x: &Tensor, step: usize) -> Result<Vec<f64>> {
    let all = x.flatten_all()?.to_vec1::<f32>()?;
    Ok(all.into_iter().step_by(step).map(f64::from).collect())
}

/// Largest difference relative to the largest value.
pub(super) fn max_error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-12f64, |m, w| m.max(w.abs()));
    got.iter().zip(want).fold(0.0, |m: f64, (g, w)| m.max((g - w).abs())) / scale
}

/// l2 norm of the difference relative to that of the values.
pub(super) fn l2_error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square: f64 = got.iter().zip(want).map(|(g, w)| (g - w) * (g - w)).sum();
    (square / want.iter().map(|w| w * w).sum::<f64>()).sqrt()
}

pub(super) fn input(case: &Value) -> Result<Tensor> {
    let shape: Vec<usize> = list(&case["shape"]).into_iter().map(|v| v as usize).collect();
    tensor("input", shape)
}

pub(super) fn store() -> ParamStore {
    ParamStore::new(0, &Device::Cpu)
}

#[test]
fn resnets_evaluate_as_torchvision() -> Result<()> {
    let fixture = fixture();
    for (key, config) in [
        ("resnet18_eval", ResNetConfig::torchvision(18)),
        ("resnet50_eval", ResNetConfig::torchvision(50)),
        ("resnet18_cifar_eval", ResNetConfig::cifar(18)),
    ] {
        let (case, store) = (&fixture[key], store());
        let net = ResNet::new(&store.builder(), &config)?;
        fill(&store)?;
        let y = net.forward(&input(case)?, &Mode::eval())?;
        assert_eq!(y.dims(), [2, net.width()]);
        let error = max_error(&every(&y, 8)?, &list(&case["features"]));
        assert!(error < 1e-4, "{key}: {error}");
    }
    Ok(())
}

#[test]
fn resnet18_trains_as_torchvision() -> Result<()> {
    let fixture = fixture();
    let (case, store) = (&fixture["resnet18_train"], store());
    let net = ResNet::new(&store.builder(), &ResNetConfig::torchvision(18))?;
    fill(&store)?;
    let y = net.forward(&input(case)?, &Mode::train(&single()))?;
    let error = max_error(&every(&y, 8)?, &list(&case["features"]));
    assert!(error < 1e-4, "features: {error}");
    let grads = (&y * tensor("loss", y.shape())?)?.sum_all()?.backward()?;
    for (name, want) in case["gradients"].as_object().expect("gradients") {
        let step = case["gradient_steps"][name].as_u64().expect("step") as usize;
        let var = store.get(name).expect("parameter").var;
        let got = every(grads.get(&var).expect("gradient"), step)?;
        // ReLU masks flip where rounding differs, hence l2 and not the maximum.
        let error = l2_error(&got, &list(want));
        assert!(error < 1e-2, "{name}: {error}");
    }
    for (name, want) in case["buffers"].as_object().expect("buffers") {
        let got = every(&store.get(name).expect("buffer").var, 8)?;
        let error = max_error(&got, &list(want));
        assert!(error < 1e-4, "{name}: {error}");
    }
    Ok(())
}

#[test]
fn names_are_torchvisions() -> Result<()> {
    let fixture = fixture();
    let (small, large) = (store(), store());
    ResNet::new(&small.builder(), &ResNetConfig::torchvision(18))?;
    let mut names: Vec<String> = small.entries().into_iter().map(|e| e.name).collect();
    names.sort();
    let want = fixture["names"]["resnet18"].as_array().expect("names");
    assert_eq!(names, want.iter().map(|v| v.as_str().expect("name").to_string()).collect::<Vec<_>>());
    ResNet::new(&large.builder(), &ResNetConfig::torchvision(50))?;
    assert_eq!(large.entries().len() as u64, fixture["names"]["resnet50_count"].as_u64().expect("count"));
    Ok(())
}

#[test]
fn configurations_change_what_they_say() -> Result<()> {
    let plain = store();
    let config = ResNetConfig { base_width: 4, ..ResNetConfig::cifar(18) };
    ResNet::new(&plain.builder(), &config)?;
    assert!(plain.get("layer1.0.downsample.0.weight").is_none());
    let projected = store();
    let shortcut = Shortcut::ProjectFirst;
    let changed =
        ResNetConfig { shortcut, zero_init_residual: true, width_multiplier: 2, in_channels: 1, ..config };
    let net = ResNet::new(&projected.builder(), &changed)?;
    assert_eq!(net.width(), 64);
    let dims = |name: &str| projected.get(name).expect("entry").var.dims().to_vec();
    assert_eq!(dims("conv1.weight"), [8, 1, 3, 3]);
    assert_eq!(dims("layer1.0.downsample.0.weight"), [8, 8, 1, 1]);
    let first = |name: &str| -> Result<f64> { Ok(every(&projected.get(name).expect("entry").var, 1)?[0]) };
    assert_eq!([first("layer1.0.bn2.weight")?, first("layer1.0.bn1.weight")?], [0.0, 1.0]);
    assert!(ResNet::new(&store().builder(), &ResNetConfig::torchvision(21)).is_err());
    Ok(())
}

#[test]
fn a_small_resnet_passes_a_difference_check() -> Result<()> {
    let store = store();
    let config = ResNetConfig { base_width: 4, ..ResNetConfig::cifar(18) };
    let net = ResNet::new(&store.builder(), &config)?;
    // Batch norm over the two values that 8 x 8 would leave in the last group is a step function.
    let x = tensor("input", (2, 3, 16, 16))?;
    let mode = Mode::train(&single());
    let weights = tensor("loss", (2, net.width()))?;
    let grads = (net.forward(&x, &mode)? * &weights)?.sum_all()?.backward()?;
    let weights = every(&weights, 1)?;
    let loss = || -> Result<f64> {
        let y = every(&net.forward(&x, &mode.without_grad())?, 1)?;
        Ok(y.iter().zip(&weights).map(|(y, w)| y * w).sum())
    };
    for name in [
        "conv1.weight",
        "bn1.bias",
        "layer1.1.conv2.weight",
        "layer2.0.downsample.0.weight",
        "layer4.1.bn2.weight",
    ] {
        let var = store.get(name).expect("parameter").var;
        let gradient = every(grads.get(&var).expect("gradient"), 1)?;
        let base = var.flatten_all()?.to_vec1::<f32>()?;
        let shape = var.shape().clone();
        let set = |values: &[f32]| var.set(&Tensor::from_slice(values, shape.clone(), &Device::Cpu)?);
        let places: Vec<usize> = (0..base.len()).step_by(base.len().div_ceil(24)).collect();
        let (mut numeric, mut analytic) = (Vec::new(), Vec::new());
        for &place in &places {
            let at = |delta: f32| -> Result<f64> {
                let mut values = base.clone();
                values[place] += delta;
                set(&values)?;
                loss()
            };
            let step = 5e-4;
            numeric.push((at(step)? - at(-step)?) / (2.0 * f64::from(step)));
            analytic.push(gradient[place]);
        }
        set(&base)?;
        let error = l2_error(&analytic, &numeric);
        println!("{name}: {error}");
        assert!(error < 0.05, "{name}: {error}");
    }
    Ok(())
}

#[test]
fn passes_without_gradients_build_no_graph() -> Result<()> {
    let store = store();
    let config = ResNetConfig { base_width: 4, ..ResNetConfig::cifar(18) };
    let net = ResNet::new(&store.builder(), &config)?;
    let head = head(&store.builder().pp("head"), net.width())?;
    let x = tensor("input", (2, 3, 8, 8))?;
    let before = every(&store.get("bn1.running_mean").expect("buffer").var, 1)?;
    for mode in [Mode::eval(), Mode::train(&single()).without_grad()] {
        let y = head.forward(&net.forward(&x, &mode)?, &mode)?;
        assert!(!y.track_op());
    }
    // The gradient-free pass in train mode has moved the running statistics, the evaluation has not.
    assert!(before != every(&store.get("bn1.running_mean").expect("buffer").var, 1)?);
    let moved = every(&store.get("bn1.running_mean").expect("buffer").var, 1)?;
    let frozen = Mode::train(&single()).with_running_statistics();
    let y = net.forward(&x, &frozen)?;
    assert!(y.track_op());
    assert_eq!(moved, every(&store.get("bn1.running_mean").expect("buffer").var, 1)?);
    let grads = y.sum_all()?.backward()?;
    assert!(grads.get(&store.get("conv1.weight").expect("parameter").var).is_some());
    Ok(())
}

/// SimCLR's head: no linear bias, the last batch norm without beta.
fn head(b: &Builder, inputs: usize) -> Result<Mlp> {
    let norm = BatchNormConfig::default();
    let hidden = MlpLayer {
        width: inputs,
        weight: Init::Normal(0.01),
        bias: None,
        norm: Some(norm),
        activation: Activation::Relu,
    };
    let last_norm = Some(BatchNormConfig { beta: None, ..norm });
    Mlp::new(
        b,
        inputs,
        &[hidden, MlpLayer { width: 8, norm: last_norm, activation: Activation::None, ..hidden }],
    )
}

#[test]
fn heads_have_sequential_names() -> Result<()> {
    let store = store();
    let simclr = head(&store.builder(), 16)?;
    assert_eq!(simclr.width(), 8);
    let names: Vec<String> = store.parameters().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["0.weight", "1.weight", "1.bias", "3.weight", "4.weight"]);
    let x = tensor("input", (6, 16))?;
    let outputs = simclr.forward_all(&x, &Mode::train(&single()))?;
    assert_eq!([outputs[0].dims(), outputs[1].dims()], [[6, 16], [6, 8]]);
    // The last layer is normalised: zero mean and unit variance in every column.
    let mean = every(&outputs[1].mean(0)?, 1)?;
    assert!(mean.iter().all(|m| m.abs() < 1e-5), "{mean:?}");
    assert!(Mlp::new(&store.builder().pp("none"), 16, &[]).is_err());
    Ok(())
}

#[test]
fn linear_and_biased_convolution() -> Result<()> {
    let store = store();
    let linear = Linear::torch_default(&store.builder().pp("fc"), 3, 2)?;
    let w = store.get("fc.weight").expect("weight").var.to_vec2::<f32>()?;
    let b = store.get("fc.bias").expect("bias").var.to_vec1::<f32>()?;
    let x = tensor("x", (2, 2, 3))?;
    let y = linear.forward(&x, &Mode::eval())?;
    assert_eq!(y.dims(), [2, 2, 2]);
    let row = x.to_vec3::<f32>()?[1][0].clone();
    for o in 0..2 {
        let want: f32 = row.iter().zip(&w[o]).map(|(x, w)| x * w).sum::<f32>() + b[o];
        assert!((y.to_vec3::<f32>()?[1][0][o] - want).abs() < 1e-6);
    }
    assert!(linear.forward(&tensor("x", (2, 4))?, &Mode::eval()).is_err());
    let settings = crate::kernels::ConvSettings::square(1, 1);
    let config =
        Conv2dConfig { kernel: 3, settings, weight: Init::TorchDefault, bias: Some(Init::Const(0.5)) };
    let conv = Conv2d::new(&store.builder().pp("conv"), 2, 3, config)?;
    let y =
        conv.forward(&Tensor::zeros((1, 2, 4, 4), candle_core::DType::F32, &Device::Cpu)?, &Mode::eval())?;
    assert!(every(&y, 1)?.iter().all(|&v| v == 0.5));
    check_gradients(&[tensor("x", (1, 2, 4, 4))?], GradCheck::default(), |x| {
        conv.forward(&x[0], &Mode::train(&single()))
    })
}

#[test]
fn batch_norm_tracks_unbiased_variance_and_split_groups() -> Result<()> {
    let mut stream = Key::new(5, Purpose::Data).stream();
    let values: Vec<f32> = (0..8 * 3).map(|_| stream.normal() as f32).collect();
    let x = Tensor::from_vec(values, (8, 3), &Device::Cpu)?;
    let mode = Mode::train(&single());
    let run = |kind: BatchNormKind, x: &Tensor| -> Result<(Tensor, Vec<f64>, Vec<f64>)> {
        let store = store();
        let norm = BatchNorm::new(&store.builder(), 3, BatchNormConfig { kind, ..Default::default() })?;
        let y = norm.forward(x, &mode)?;
        let buffer = |name: &str| every(&store.get(name).expect("buffer").var, 1);
        Ok((y, buffer("running_mean")?, buffer("running_var")?))
    };
    let (_, mean, var) = run(BatchNormKind::Local, &x)?;
    for c in 0..3 {
        let column = every(&x.narrow(1, c, 1)?, 1)?;
        let m = column.iter().sum::<f64>() / 8.0;
        let v = column.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / 7.0;
        assert!((mean[c] - 0.1 * m).abs() < 1e-6 && (var[c] - (0.9 + 0.1 * v)).abs() < 1e-6);
    }
    let (split, mean, var) = run(BatchNormKind::Split(2), &x)?;
    let halves =
        [run(BatchNormKind::Local, &x.narrow(0, 0, 4)?)?, run(BatchNormKind::Local, &x.narrow(0, 4, 4)?)?];
    let joined = Tensor::cat(&[&halves[0].0, &halves[1].0], 0)?;
    assert!(max_error(&every(&split, 1)?, &every(&joined, 1)?) < 1e-6);
    for c in 0..3 {
        assert!((mean[c] - (halves[0].1[c] + halves[1].1[c]) / 2.0).abs() < 1e-6);
        assert!((var[c] - (halves[0].2[c] + halves[1].2[c]) / 2.0).abs() < 1e-6);
    }
    assert!(run(BatchNormKind::Local, &x.narrow(0, 0, 1)?).is_err());
    let store = store();
    let plain = BatchNorm::new(&store.builder(), 3, BatchNormConfig::default().without_affine())?;
    assert!(store.parameters().is_empty());
    assert!(
        max_error(&every(&plain.forward(&x, &mode)?, 1)?, &every(&run(BatchNormKind::Sync, &x)?.0, 1)?)
            < 1e-6
    );
    Ok(())
}
