//! Losses and gradients against the official code's formula, lightly's loss and PyTorch (`fixtures/make_golden.py`).

use anyhow::Result;
use candle_core::{Device, Tensor, Var};
use contrastive_core::dist::single;
use contrastive_simclr::LossForm;
use contrastive_simclr::loss::{distillation_loss, simclr_loss};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    temperature: f64,
    official: Values,
    lightly: Values,
    distillation: Vec<Distillation>,
}

#[derive(Deserialize)]
struct Distillation {
    temperature: f64,
    loss: f64,
    grad: Vec<f64>,
}

#[derive(Deserialize)]
struct Values {
    loss: f64,
    grad_a: Vec<f64>,
    grad_b: Vec<f64>,
}

/// The script's embeddings.
fn views() -> Result<(Var, Var)> {
    let make = |f: &dyn Fn(f64, f64) -> f64| {
        let mut values = Vec::new();
        for i in 0..6 {
            for j in 0..8 {
                values.push(f(f64::from(i), f64::from(j)) as f32);
            }
        }
        Tensor::from_vec(values, (6, 8), &Device::Cpu)
    };
    let a = make(&|i, j| (8.0 * i + j + 1.0).sin())?;
    let b = make(&|i, j| (0.37 * (8.0 * i + j) + 0.5 * i * i + 1.0).cos())?;
    Ok((Var::from_tensor(&a)?, Var::from_tensor(&b)?))
}

fn close(got: &Tensor, expected: &[f64]) -> Result<()> {
    let got = got.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(got.len(), expected.len());
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*g) - e).abs() < 1e-5, "element {i}: {g}, expected {e}");
    }
    Ok(())
}

#[test]
fn both_forms_match_their_peers() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/golden.json"))?;
    for (form, expected) in [(LossForm::Repository, golden.official), (LossForm::Paper, golden.lightly)] {
        let (a, b) = views()?;
        let out = simclr_loss(&a, &b, golden.temperature, form, &single())?;
        let loss = f64::from(out.loss.to_scalar::<f32>()?);
        assert!((loss - expected.loss).abs() < 1e-5, "{form:?}: {loss}, expected {}", expected.loss);
        let grads = out.loss.backward()?;
        for (var, expected) in [(&a, &expected.grad_a), (&b, &expected.grad_b)] {
            let gradient = grads.get(var).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
            close(gradient, expected)?;
        }
    }
    Ok(())
}

#[test]
fn distillation_is_pytorchs() -> Result<()> {
    let golden: Golden = serde_json::from_str(include_str!("fixtures/golden.json"))?;
    for expected in golden.distillation {
        let (student, teacher) = views()?;
        let loss = distillation_loss(&student, &teacher, expected.temperature)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        assert!((value / expected.loss - 1.0).abs() < 1e-5, "{value}, expected {}", expected.loss);
        let grads = loss.backward()?;
        assert!(grads.get(&teacher).is_none());
        let gradient = grads.get(&student).ok_or_else(|| anyhow::anyhow!("no gradient"))?;
        close(gradient, &expected.grad)?;
    }
    let (student, teacher) = views()?;
    assert!(distillation_loss(&student, &teacher, 0.0).is_err());
    assert!(distillation_loss(&student, &teacher.narrow(0, 0, 3)?, 1.0).is_err());
    Ok(())
}
