//! The gradient of the whole step: every parameter has one, and they agree with finite differences.

mod common;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use contrastive_core::dist::single;
use contrastive_core::nn::ParamStore;
use contrastive_core::train::{Method, with_big_stack};
use contrastive_simclr::{LossForm, SimClr};

fn loss(method: &mut SimClr, batch: &contrastive_core::data::Batch) -> Result<Tensor> {
    Ok(method.step(batch, &single(), &common::progress())?.loss)
}

/// Moves one element of a parameter.
fn nudge(params: &ParamStore, name: &str, place: usize, delta: f32) -> Result<()> {
    let entry = params.get(name).ok_or_else(|| anyhow!("no parameter {name}"))?;
    let mut values = entry.var.flatten_all()?.to_vec1::<f32>()?;
    values[place] += delta;
    entry.var.set(&Tensor::from_vec(values, entry.var.shape(), &Device::Cpu)?)?;
    Ok(())
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    let mut config = common::tiny()?.method;
    config.loss = LossForm::Repository;
    let mut method = SimClr::new(config, 5, &Device::Cpu)?;
    let batch = common::batch(8, 16)?;
    let mut grads = None;
    with_big_stack(|| {
        grads = Some(method.step(&batch, &single(), &common::progress())?.loss.backward()?);
        Ok(())
    })?;
    let grads = grads.ok_or_else(|| anyhow!("no gradients"))?;
    let params = method.params().clone();
    for entry in params.parameters() {
        assert!(grads.get(entry.var.as_tensor()).is_some(), "{} has no gradient", entry.name);
    }
    // ReLU's kinks move under any perturbation of an early layer; the head and the last norms are smooth enough.
    for (name, place) in [
        ("head.0.weight", 3),
        ("head.1.weight", 2),
        ("head.3.weight", 7),
        ("head.4.weight", 1),
        ("head.4.bias", 0),
    ] {
        let entry = params.get(name).ok_or_else(|| anyhow!("no parameter {name}"))?;
        let gradient = grads.get(entry.var.as_tensor()).ok_or_else(|| anyhow!("no gradient"))?;
        let analytic = f64::from(gradient.flatten_all()?.to_vec1::<f32>()?[place]);
        let step = 2e-3f32;
        nudge(&params, name, place, step)?;
        let up = f64::from(loss(&mut method, &batch)?.to_scalar::<f32>()?);
        nudge(&params, name, place, -2.0 * step)?;
        let down = f64::from(loss(&mut method, &batch)?.to_scalar::<f32>()?);
        nudge(&params, name, place, step)?;
        let numeric = (up - down) / (2.0 * f64::from(step));
        assert!(
            (numeric - analytic).abs() < 2e-3 + 0.03 * analytic.abs(),
            "{name}[{place}]: {analytic} {numeric}"
        );
    }
    Ok(())
}
