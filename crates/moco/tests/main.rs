//! What every method is held to, and MoCo's golden numbers.

mod golden;
mod shuffled;

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::diagnostics::WarningKind;
use contrastive_core::dist::single;
use contrastive_core::experiment::{MethodConfig, RunConfig};
use contrastive_core::nn::{BackboneConfig, Mode, Module, ParamStore, VitConfig};
use contrastive_core::optim::Gradients;
use contrastive_core::state::Momentum;
use contrastive_core::train::Method;
use contrastive_core::train::config::layered;
use contrastive_moco::model::MocoEncoder;
use contrastive_moco::{MocoConfig, QueueConfig, TransformerConfig, V3Config, recipe};
use contrastive_testing as testing;

/// v2's smoke preset with a network of four channels and devices of four samples; v1's code is the same.
pub(crate) fn tiny() -> Result<QueueConfig> {
    match recipe::preset("v2-smoke")?.method {
        MocoConfig::V2(mut config) => {
            config.backbone = testing::tiny_resnet();
            (config.head.hidden, config.head.output) = (Some(16), 8);
            (config.queue, config.bn_groups, config.symmetric) = (64, 4, true);
            Ok(config)
        }
        other => anyhow::bail!("{other:?}"),
    }
}

/// v3's smoke preset with a network of four channels.
fn tiny_v3() -> Result<V3Config> {
    match recipe::preset("v3-smoke")?.method {
        MocoConfig::V3(mut config) => {
            config.backbone = testing::tiny_resnet();
            (config.heads.hidden, config.heads.output) = (16, 8);
            Ok(config)
        }
        other => anyhow::bail!("{other:?}"),
    }
}

/// The same with a transformer of two blocks on patches of 5 pixels.
fn tiny_vit() -> Result<V3Config> {
    let vit = VitConfig { image: 20, patch: 5, dim: 16, depth: 2, heads: 4, ..VitConfig::tiny(5) };
    let mut config = tiny_v3()?;
    config.backbone = vit.into();
    (config.heads.projector_layers, config.heads.predictor_norm) = (3, true);
    config.transformer = Some(TransformerConfig { frozen_patches: true, sin_cos: true });
    Ok(config)
}

fn run_of(method: MocoConfig) -> Result<RunConfig<MocoConfig>> {
    Ok(RunConfig { method, ..recipe::preset("v2-smoke")? })
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    let batch = testing::batch(8, &[16, 16])?;
    let mut method = MocoConfig::V2(tiny()?).build(5, &Device::Cpu)?;
    let places = [("head.0.weight", 3), ("head.0.bias", 2), ("head.2.weight", 7), ("head.2.bias", 0)];
    testing::assert_gradients(method.as_mut(), &batch, &[], &places)?;
    let mut method = MocoConfig::V3(tiny_v3()?).build(5, &Device::Cpu)?;
    let places = [("projector.3.weight", 3), ("predictor.1.bias", 2), ("predictor.3.weight", 7)];
    testing::assert_gradients(method.as_mut(), &batch, &[], &places)
}

#[test]
fn a_transformer_has_the_gradient_that_differences_give() -> Result<()> {
    let mut method = MocoConfig::V3(tiny_vit()?).build(5, &Device::Cpu)?;
    let places = [
        ("backbone.blocks.1.attn.qkv.weight", 40),
        ("backbone.norm.bias", 3),
        ("predictor.1.weight", 2),
        ("predictor.3.weight", 7),
    ];
    testing::assert_gradients(method.as_mut(), &testing::batch(8, &[20, 20])?, &[], &places)
}

/// Four devices of four samples: four groups on one rank, two on each of two, one on each of four.
#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let run = run_of(MocoConfig::V2(tiny()?))?;
    testing::assert_ranks(&run, 16, &[16, 16], &[2, 4])?;
    let without = run_of(MocoConfig::V2(QueueConfig { bn_groups: 1, ..tiny()? }))?;
    testing::assert_ranks(&without, 8, &[16, 16], &[2])?;
    let odd = run_of(MocoConfig::V2(QueueConfig { bn_groups: 3, ..tiny()? }))?;
    let refused =
        testing::assert_ranks(&odd, 12, &[16, 16], &[2]).map_or_else(|e| e.to_string(), |()| String::new());
    assert!(refused.contains("3 groups do not divide evenly among 2 ranks"), "{refused}");
    Ok(())
}

#[test]
fn ranks_do_not_change_a_step_of_v3() -> Result<()> {
    let run = run_of(MocoConfig::V3(tiny_v3()?))?;
    testing::assert_ranks(&run, 8, &[16, 16], &[2, 4])?;
    let run = run_of(MocoConfig::V3(tiny_vit()?))?;
    testing::assert_ranks(&run, 8, &[20, 20], &[2])
}

/// Without batch statistics: the step of the whole batch. With them, either encoder's running ones see each chunk once.
#[test]
fn chunks_change_neither_loss_nor_gradient_of_v3() -> Result<()> {
    let mut plain = tiny_vit()?;
    (plain.heads.batch_norm, plain.heads.predictor_norm) = (false, false);
    for chunk in [2, 4] {
        let chunked = MocoConfig::V3(V3Config { chunk: Some(chunk), ..plain.clone() });
        let batch = testing::batch(8, &[20, 20])?;
        testing::assert_chunks(&MocoConfig::V3(plain.clone()), &chunked, &batch)?;
    }
    let config = V3Config { chunk: Some(2), ..tiny_v3()? };
    let batch = testing::batch(8, &[16, 16])?;
    let mut method = MocoConfig::V3(config.clone()).build(1, &Device::Cpu)?;
    let mut out = method.step(&batch, &single(), &testing::progress(0))?;
    out.take_gradients(method.params())?;
    // The momentum encoder begins as a copy.
    let params = ParamStore::new(1, &Device::Cpu);
    let encoder = MocoEncoder::v3(&params.builder(), &config)?;
    for c in 0..4 {
        for view in &batch.views {
            encoder.forward(&view.narrow(0, 2 * c, 2)?, &Mode::train(&single()).without_grad())?;
        }
    }
    let found = [method.params().tensors(), method.state()?].concat();
    for (name, expected) in params.tensors().iter().filter(|(name, _)| name.contains("running_")) {
        let copies: Vec<_> = found.iter().filter(|(n, _)| n.ends_with(name.as_str())).collect();
        assert_eq!(copies.len(), 2, "{name}");
        for (at, own) in copies {
            let gap = (own - expected)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            assert!(gap < 1e-5, "{at} differs by {gap}");
        }
    }
    Ok(())
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    testing::assert_resumes(run_of(MocoConfig::V2(tiny()?))?)?;
    testing::assert_resumes(run_of(MocoConfig::V3(tiny_v3()?))?)
}

#[test]
fn features_get_better() -> Result<()> {
    for (preset, margin) in [("v1-smoke", 0.03), ("v2-smoke", 0.05), ("v3-smoke", 0.05)] {
        testing::assert_learns(&recipe::preset(preset)?, margin)?;
    }
    Ok(())
}

/// A key encoder that is the query encoder of the moment (momentum 0, which fails in the paper) is seen to give one
/// embedding for all; v3 is not. That v2 is not with its own momentum is seen by the test above: instruments that look as
/// often as here would report the narrow cone in which embeddings begin without batch norm in the head.
#[test]
fn a_key_encoder_without_momentum_is_seen_to_collapse() -> Result<()> {
    let warnings = |momentum: f64| -> Result<Vec<WarningKind>> {
        let mut run = recipe::preset("v2-smoke")?;
        run.train.epochs = 3;
        if let MocoConfig::V2(config) = &mut run.method {
            config.momentum = momentum;
        }
        testing::warnings(&run)
    };
    let seen = warnings(0.0)?;
    assert!(seen.contains(&WarningKind::Constant), "{seen:?}");
    let mut run = run_of(MocoConfig::V3(tiny_v3()?))?;
    run.train.epochs = 3;
    assert!(testing::warnings(&run)?.is_empty());
    Ok(())
}

/// The key encoder's parameters follow the query encoder's before the keys are made; its running statistics are its own.
#[test]
fn the_key_encoder_follows_with_its_parameters_alone() -> Result<()> {
    let config = QueueConfig { momentum: 0.75, ..tiny()? };
    let mut method = MocoConfig::V2(config).build(1, &Device::Cpu)?;
    let weight = method.params().get("head.2.weight").expect("a head").var;
    let mean = method.params().get("backbone.bn1.running_mean").expect("batch norm").var;
    let key = |method: &dyn Method, name: &str| -> Result<Vec<f32>> {
        Ok(testing::state(method)?[&format!("momentum.{name}")].flatten_all()?.to_vec1()?)
    };
    let begin = weight.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(key(method.as_ref(), "head.2.weight")?, begin);
    weight.set(&(weight.as_detached_tensor() + 1.0)?)?;
    mean.set(&(mean.as_detached_tensor() + 1.0)?)?;
    method.before_step(&testing::progress(0))?;
    for (got, begin) in key(method.as_ref(), "head.2.weight")?.iter().zip(&begin) {
        assert!((got - (begin + 0.25)).abs() < 1e-6);
    }
    assert!(key(method.as_ref(), "backbone.bn1.running_mean")?.iter().all(|&mean| mean == 0.0));
    Ok(())
}

/// The keys of a step are its negatives only from the next step on; with both directions, both views' keys enter.
#[test]
fn keys_enter_the_queue_after_the_update() -> Result<()> {
    for (symmetric, count) in [(false, 8), (true, 16)] {
        let mut method = MocoConfig::V2(QueueConfig { symmetric, ..tiny()? }).build(1, &Device::Cpu)?;
        let queue = |method: &dyn Method| -> Result<Vec<Vec<f32>>> {
            Ok(testing::state(method)?["queue"].to_vec2()?)
        };
        let begin = queue(method.as_ref())?;
        let out = method.step(&testing::batch(8, &[16, 16])?, &single(), &testing::progress(0))?;
        assert_eq!(queue(method.as_ref())?, begin);
        method.after_update(&testing::progress(0))?;
        let after = queue(method.as_ref())?;
        assert_eq!(after[count..], begin[count..]);
        // The second view's keys come last.
        assert_eq!(after[count - 8..count], out.embeddings[1].to_vec2::<f32>()?);
    }
    Ok(())
}

/// v3's m goes from its first value to 1.
#[test]
fn the_momentum_of_v3_rises() -> Result<()> {
    let mut method = MocoConfig::V3(V3Config { momentum: 0.5, ..tiny_v3()? }).build(1, &Device::Cpu)?;
    let weight = method.params().get("projector.0.weight").expect("a projector").var;
    let first = |t: Tensor| -> Result<f32> { Ok(t.flatten_all()?.to_vec1::<f32>()?[0]) };
    for (step, m) in [(0, 0.5), (50, 0.75), (100, 1.0)] {
        let key = |method: &dyn Method| first(testing::state(method)?["momentum.projector.0.weight"].clone());
        weight.set(&(weight.as_detached_tensor() + 1.0)?)?;
        let (old, new) = (key(method.as_ref())?, first(weight.as_detached_tensor())?);
        method.before_step(&testing::progress(step))?;
        let expected = m * old + (1.0 - m) * new;
        assert!((key(method.as_ref())? - expected).abs() < 1e-5, "step {step}");
    }
    Ok(())
}

#[test]
fn a_transformer_keeps_patches_and_positions() -> Result<()> {
    let mut run = recipe::preset("v3-imagenet-vit-s")?;
    run.method = MocoConfig::V3(tiny_vit()?);
    let mut method = run.method.build(1, &Device::Cpu)?;
    let mut optimizer = run.optimizer(method.params())?;
    let begin: Vec<(String, Tensor)> = method
        .params()
        .tensors()
        .into_iter()
        .map(|(name, t)| Ok((name, t.copy()?)))
        .collect::<Result<_>>()?;
    for step in 0..2 {
        let progress = testing::progress(step);
        method.before_step(&progress)?;
        let out = method.step(&testing::batch_at(step, 8, &[20, 20])?, &single(), &progress)?;
        let mut gradients = Gradients::of(method.params(), &out.loss)?;
        gradients.retain(|name| !method.frozen(name, &progress));
        optimizer.step(&gradients, 1e-3)?;
        method.after_update(&progress)?;
    }
    for (name, old) in begin {
        let now = method.params().get(&name).expect("a parameter").var.as_detached_tensor();
        let moved = testing::value(&(now - old)?.abs()?.flatten_all()?.max(0)?)? > 0.0;
        let fixed = name == "backbone.pos_embed" || name.starts_with("backbone.patch_embed.");
        assert_eq!(moved, !fixed, "{name}");
    }
    Ok(())
}

/// The official code's initialisers (12 heads or 6 do not change a shape).
#[test]
fn a_transformer_begins_as_the_official_codes() -> Result<()> {
    let config = tiny_vit()?;
    let BackboneConfig::Vit(vit) = config.backbone else { anyhow::bail!("{config:?}") };
    let momentum = Momentum::new(&Device::Cpu);
    let encoder = MocoEncoder::v3(&momentum.builder(), &config)?;
    let largest = |name: &str| -> Result<f64> {
        let var = momentum.params().get(&format!("backbone.{name}")).expect("a parameter").var;
        testing::value(&var.abs()?.flatten_all()?.max(0)?)
    };
    let dim = vit.dim as f64;
    for (name, bound) in [
        ("patch_embed.proj.weight", (6.0 / (75.0 + dim)).sqrt()),
        ("blocks.0.attn.qkv.weight", (6.0 / (2.0 * dim)).sqrt()),
        ("blocks.0.attn.proj.weight", (6.0 / (2.0 * dim)).sqrt()),
        ("blocks.1.mlp.fc1.weight", (6.0 / (5.0 * dim)).sqrt()),
        ("blocks.1.mlp.fc2.weight", (6.0 / (5.0 * dim)).sqrt()),
    ] {
        let largest = largest(name)?;
        assert!(largest <= bound && largest > 0.97 * bound, "{name}: {largest}, bound {bound}");
    }
    for name in ["patch_embed.proj.bias", "blocks.0.attn.qkv.bias", "blocks.1.mlp.fc2.bias"] {
        assert_eq!(largest(name)?, 0.0, "{name}");
    }
    assert!(largest("cls_token")? < 1e-5);
    assert_eq!(encoder.head.width(), 8);
    Ok(())
}

#[test]
fn faults_are_named() -> Result<()> {
    let text = |method: MocoConfig| method.check("method").map_err(|e| e.to_string()).unwrap_err();
    let queue = tiny()?;
    assert!(text(MocoConfig::V1(queue.clone())).contains("method.head.hidden"));
    let mut linear = queue.clone();
    linear.head.hidden = None;
    assert!(text(MocoConfig::V2(linear)).contains("method.head.hidden"));
    assert!(text(MocoConfig::V2(QueueConfig { momentum: 1.5, ..queue.clone() })).contains("method.momentum"));
    assert!(text(MocoConfig::V2(QueueConfig { bn_groups: 0, ..queue })).contains("method.bn_groups"));
    let vit = tiny_vit()?;
    assert!(
        text(MocoConfig::V3(V3Config { transformer: None, ..vit.clone() })).contains("method.transformer")
    );
    assert!(text(MocoConfig::V3(V3Config { temperature: 0.0, ..vit })).contains("method.temperature"));
    Ok(())
}

/// The published tables name presets and settings that exist.
#[test]
fn published_rows_can_be_configured() -> Result<()> {
    let tables: serde_json::Value =
        serde_json::from_str(include_str!("../../../results/published/moco.json"))?;
    let mut count = 0;
    for row in tables.as_array().into_iter().flatten().flat_map(|table| table["rows"].as_array()).flatten() {
        let Some(preset) = row["preset"].as_str() else { continue };
        let texts = row["set"].as_array().into_iter().flatten().filter_map(|text| text.as_str());
        let set: Vec<String> = texts.map(str::to_string).collect();
        layered(&recipe::preset(preset)?, None, &set)?.check()?;
        count += 1;
    }
    assert!(count > 60, "{count} rows");
    Ok(())
}
