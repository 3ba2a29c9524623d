//! Against timm, against itself on other splits of a batch, and what it refuses.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::*;
use crate::dist::single;
use crate::nn::tests::{every, formula, input, l2_error, list, max_error, store, tensor};
use crate::nn::{Noise, ParamStore};

const SMALL: VitConfig = VitConfig {
    image: 32,
    patch: 8,
    dim: 48,
    depth: 2,
    heads: 3,
    mlp_ratio: 4,
    in_channels: 3,
    drop_path: 0.0,
    interpolation: Interpolation::Dino,
    norm_eps: 1e-6,
};

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/nn/vit.json")).expect("vit.json")
}

/// A network with the weights of `make_vit.py`.
fn network(config: &VitConfig) -> Result<(VisionTransformer, ParamStore)> {
    let store = store();
    let net = VisionTransformer::new(&store.builder(), config)?;
    let mut tensors = HashMap::new();
    for entry in store.entries() {
        let (name, dims) = (entry.name, entry.var.dims());
        let fan_in = dims.iter().skip(1).product::<usize>() as f64;
        let scale = |u: f64| match dims.len() {
            3 => 0.5 * u,
            2 | 4 => u * (3.0 / fan_in).sqrt(),
            _ if name.ends_with("weight") => 1.0 + 0.25 * u,
            _ => 0.25 * u,
        };
        let values: Vec<f32> =
            formula(&name, entry.var.elem_count()).into_iter().map(|u| scale(u) as f32).collect();
        tensors.insert(name.clone(), Tensor::from_vec(values, dims, &Device::Cpu)?);
    }
    store.load(&tensors, "formula")?;
    Ok((net, store))
}

#[test]
fn forward_and_gradients_are_timms() -> Result<()> {
    let fixture = fixture();
    for (key, interpolation) in [
        ("own", Interpolation::Dino),
        ("dino_larger", Interpolation::Dino),
        ("dino_smaller", Interpolation::Dino),
        ("timm_larger", Interpolation::Antialiased),
        ("timm_smaller", Interpolation::Antialiased),
    ] {
        let case = &fixture[key];
        let (net, store) = network(&VitConfig { interpolation, ..SMALL })?;
        let y = net.forward(&input(case)?, &Mode::train(&single()))?;
        assert_eq!(y.dims(), [2, net.width()]);
        let error = max_error(&every(&y, 1)?, &list(&case["features"]));
        assert!(error < 1e-4, "{key}: {error}");
        let grads = (&y * tensor("loss", y.shape())?)?.sum_all()?.backward()?;
        for (name, want) in case["gradients"].as_object().expect("gradients") {
            let step = fixture["gradient_steps"][name].as_u64().expect("step") as usize;
            let var = store.get(name).expect("parameter").var;
            let error = l2_error(&every(grads.get(&var).expect("gradient"), step)?, &list(want));
            assert!(error < 1e-4, "{key}, {name}: {error}");
        }
    }
    Ok(())
}

#[test]
fn names_and_attention_are_timms() -> Result<()> {
    let fixture = fixture();
    let (net, store) = network(&SMALL)?;
    let mut names: Vec<String> = store.entries().into_iter().map(|e| e.name).collect();
    names.sort();
    let want = fixture["names"].as_array().expect("names");
    assert_eq!(names, want.iter().map(|v| v.as_str().expect("name").to_string()).collect::<Vec<_>>());
    let case = &fixture["own"];
    let attention = net.last_attention(&input(case)?)?;
    assert_eq!(attention.dims(), [2, 3, 17]);
    assert!(!attention.track_op());
    let error = max_error(&every(&attention, 1)?, &list(&case["attention"]));
    assert!(error < 1e-4, "{error}");
    Ok(())
}

#[test]
fn last_blocks_lead_to_the_features() -> Result<()> {
    let (net, _) = network(&SMALL)?;
    let x = tensor("input", (2, 3, 32, 40))?;
    let mode = Mode::eval();
    let blocks = net.last_blocks(&x, 2, &mode)?;
    assert_eq!(blocks.len(), 2);
    let tokens = net.final_norm(&blocks[1], &mode)?.rows()?;
    assert_eq!(tokens.dims(), [2, 1 + 4 * 5, 48]);
    let features = net.forward(&x, &mode)?;
    assert!(!features.track_op());
    assert!(max_error(&every(&tokens.narrow(1, 0, 1)?, 1)?, &every(&features, 1)?) < 1e-6);
    Ok(())
}

fn noisy(rows: &[(u64, u64)]) -> Mode {
    Mode::train(&single()).with_noise(Noise { seed: 3, step: 7, rows: rows.into() })
}

#[test]
fn draws_belong_to_samples_and_views() -> Result<()> {
    let (net, _) = network(&VitConfig { drop_path: 0.5, ..SMALL })?;
    let x = tensor("input", (6, 3, 32, 32))?;
    let rows = [(10, 0), (11, 0), (12, 0), (10, 1), (11, 1), (12, 1)];
    let whole = net.forward(&x, &noisy(&rows))?;
    // Two ranks with three rows each.
    let first = net.forward(&x.narrow(0, 0, 3)?, &noisy(&rows[..3]))?;
    let second = net.forward(&x.narrow(0, 3, 3)?, &noisy(&rows[3..]))?;
    let split = Tensor::cat(&[first, second], 0)?;
    assert!(max_error(&every(&whole, 1)?, &every(&split, 1)?) < 1e-6);
    // Other names, other draws; another step too.
    let other = net.forward(&x, &noisy(&rows.map(|(sample, view)| (sample + 5, view))))?;
    assert!(max_error(&every(&whole, 1)?, &every(&other, 1)?) > 1e-3);
    let later = Mode::train(&single()).with_noise(Noise { seed: 3, step: 8, rows: rows.into() });
    assert!(max_error(&every(&whole, 1)?, &every(&net.forward(&x, &later)?, 1)?) > 1e-3);
    Ok(())
}

#[test]
fn skipped_branches_leave_the_tokens_as_they_are() -> Result<()> {
    // The first block's probability is 0, the last one's so large that both its branches are skipped.
    let (net, store) = network(&VitConfig { drop_path: 0.999_999, ..SMALL })?;
    let x = tensor("input", (2, 3, 32, 32))?;
    let y = net.forward(&x, &noisy(&[(0, 0), (1, 0)]))?;
    let mode = Mode::eval();
    let before = &net.last_blocks(&x, 2, &mode)?[0];
    let want = net.final_norm(&take_token(before, 0)?, &mode)?.rows()?;
    assert!(max_error(&every(&y, 1)?, &every(&want, 1)?) < 1e-6);
    let grads = y.sum_all()?.backward()?;
    let gradient = |name: &str| -> Result<f64> {
        let var = store.get(name).expect("parameter").var;
        Ok(every(grads.get(&var).expect("gradient"), 1)?.iter().fold(0.0, |m, g| g.abs().max(m)))
    };
    assert_eq!(gradient("blocks.1.mlp.fc1.weight")?, 0.0);
    assert!(gradient("blocks.0.mlp.fc1.weight")? > 0.0);
    // Evaluation skips nothing, and one block alone never does.
    assert!(max_error(&every(&net.forward(&x, &mode)?, 1)?, &every(&want, 1)?) > 1e-2);
    Ok(())
}

#[test]
fn stochastic_depth_needs_draws() -> Result<()> {
    let (net, _) = network(&VitConfig { drop_path: 0.1, ..SMALL })?;
    let x = tensor("input", (2, 3, 32, 32))?;
    assert!(matches!(net.forward(&x, &Mode::train(&single())), Err(Error::Config { .. })));
    assert!(matches!(net.forward(&x, &noisy(&[(0, 0)])), Err(Error::Shape { .. })));
    assert!(net.forward(&x, &Mode::eval()).is_ok());
    Ok(())
}

#[test]
fn wrong_settings_and_shapes_are_errors() -> Result<()> {
    for wrong in [
        VitConfig { drop_path: 1.0, ..SMALL },
        VitConfig { drop_path: -0.1, ..SMALL },
        VitConfig { drop_path: f64::NAN, ..SMALL },
        VitConfig { heads: 5, ..SMALL },
        VitConfig { image: 30, ..SMALL },
        VitConfig { depth: 0, ..SMALL },
    ] {
        assert!(VisionTransformer::new(&store().builder(), &wrong).is_err(), "{wrong:?}");
    }
    let (net, _) = network(&SMALL)?;
    for shape in [&[2usize, 3, 32][..], &[2, 3, 36, 32], &[2, 3, 32, 4], &[2, 4, 32, 32]] {
        assert!(net.forward(&tensor("input", shape)?, &Mode::eval()).is_err(), "{shape:?}");
    }
    assert_eq!(VitConfig::small(16).to_string(), "vit-d384-l12-h6-p16");
    for config in [VitConfig::tiny(16), VitConfig::small(8), VitConfig::base(16)] {
        config.check("encoder")?;
    }
    Ok(())
}
