//! Loss, centre, head and schedules against the official formulas and lightly's modules (`fixtures/make_golden.py`).

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor, Var};
use contrastive_core::dist::single;
use contrastive_core::nn::{BatchNormKind, Mode, ParamStore};
use contrastive_core::train::Progress;
use contrastive_dino::head::DinoHead;
use contrastive_dino::loss::{dino_loss, teacher_probabilities};
use contrastive_dino::{Centre, HeadConfig, TeacherTemperature, recipe};
use contrastive_testing::{assert_close, deep, value};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    official: Values,
    lightly: Values,
    head: Head,
    schedules: Schedules,
}

#[derive(Deserialize)]
struct Values {
    loss: f64,
    centre: Vec<f64>,
    gradient: Vec<f64>,
}

#[derive(Deserialize)]
struct Head {
    logits: Vec<f64>,
    gradients: BTreeMap<String, Vec<f64>>,
}

#[derive(Deserialize)]
struct Schedules {
    teacher_temperature: Vec<f64>,
    momentum: Vec<f64>,
    weight_decay: Vec<f64>,
}

fn golden() -> Result<Golden> {
    Ok(serde_json::from_str(include_str!("fixtures/golden.json"))?)
}

/// The script's inputs.
fn table(shape: (usize, usize), [a, b, scale, offset]: [f64; 4]) -> Result<Tensor> {
    let values = (0..shape.0 * shape.1).map(|i| (scale * (a * i as f64 + b).sin() + offset) as f32);
    Ok(Tensor::from_vec(values.collect(), shape, &Device::Cpu)?)
}

#[test]
fn loss_centre_and_gradient_are_the_official_codes_and_lightlys() -> Result<()> {
    let golden = golden()?;
    for expected in [golden.official, golden.lightly] {
        let student = Var::from_tensor(&table((12, 8), [0.7, 0.1, 0.3, 0.0])?)?;
        let teacher = table((6, 8), [1.1, 0.5, 0.2, 0.0])?;
        let mut centre = Centre::new(8, 0.9, &Device::Cpu)?;
        centre.load_state(&HashMap::from([("centre".into(), table((1, 8), [0.9, 0.3, 0.1, 0.0])?)]))?;
        let p = teacher_probabilities(&teacher, centre.value(), 0.04)?;
        let loss = dino_loss(&student, &p, 0.1)?;
        assert!((value(&loss)? - expected.loss).abs() < 1e-5, "{loss}, expected {}", expected.loss);
        let grads = loss.backward()?;
        let gradient = grads.get(&student).ok_or_else(|| anyhow!("no gradient"))?;
        assert_close("gradient", gradient, &expected.gradient, 1e-5)?;
        centre.update(&Centre::mean(&teacher, &single())?)?;
        assert_close("centre", centre.value(), &expected.centre, 1e-6)?;
    }
    Ok(())
}

#[test]
fn the_head_and_its_gradients_are_lightlys() -> Result<()> {
    let golden = golden()?.head;
    let store = ParamStore::new(0, &Device::Cpu);
    let config =
        HeadConfig { hidden: 5, bottleneck: 4, output: 7, norm_last_layer: false, ..HeadConfig::official() };
    let head = DinoHead::new(&store.builder(), 6, &config, BatchNormKind::Local)?;
    for (i, name) in golden.gradients.keys().enumerate() {
        let name = name.replace("layers.", "mlp.");
        let entry = store.get(&name).ok_or_else(|| anyhow!("no parameter {name}"))?;
        let offset = if name.ends_with("weight_g") { 1.5 } else { 0.0 };
        let values = table((1, entry.var.elem_count()), [1.3, i as f64, 0.5, offset])?;
        entry.var.set(&values.reshape(entry.var.shape())?)?;
    }
    deep(|| {
        let x = table((3, 6), [0.37, 0.2, 1.0, 0.0])?;
        let logits = head.forward_all(&x, &Mode::train(&single()))?.logits;
        assert_close("logits", &logits, &golden.logits, 1e-5)?;
        let grads = (logits * table((3, 7), [0.53, 0.4, 1.0, 0.0])?)?.sum_all()?.backward()?;
        for (name, expected) in &golden.gradients {
            let name = name.replace("layers.", "mlp.");
            let var = store.get(&name).ok_or_else(|| anyhow!("no parameter {name}"))?.var;
            let gradient = grads.get(&var).ok_or_else(|| anyhow!("no gradient of {name}"))?;
            assert_close(&name, gradient, expected, 2e-5)?;
        }
        Ok(())
    })
}

#[test]
fn schedules_are_numpys() -> Result<()> {
    let golden = golden()?.schedules;
    let temperature = TeacherTemperature { start: 0.04, end: 0.07, warmup_epochs: 5 };
    for (epoch, expected) in golden.teacher_temperature.iter().enumerate() {
        assert!((temperature.at(epoch as u64) - expected).abs() < 1e-12, "epoch {epoch}");
    }
    let run = recipe::preset("imagenet")?;
    for (i, (momentum, decay)) in golden.momentum.iter().zip(&golden.weight_decay).enumerate() {
        let step = 7 * i as u64;
        let progress = Progress {
            seed: 0,
            step,
            total_steps: 80,
            epoch: step / 10,
            total_epochs: 8,
            steps_per_epoch: 10,
        };
        assert!((run.method.momentum_at(&progress) - momentum).abs() < 1e-12, "momentum of step {step}");
        let got = run.weight_decay(&progress).ok_or_else(|| anyhow!("no weight decay"))?;
        assert!((got - decay).abs() < 1e-12, "weight decay of step {step}");
    }
    Ok(())
}
