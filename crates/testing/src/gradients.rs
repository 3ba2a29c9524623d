//! Gradients of whole steps against finite differences, and of tensors against numbers.

use std::collections::HashMap;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::single;
use contrastive_core::nn::ParamStore;
use contrastive_core::optim::Gradients;
use contrastive_core::train::Method;

use crate::{deep, progress, value};

/// A copy of a method's state.
pub fn state(method: &dyn Method) -> Result<HashMap<String, Tensor>> {
    method.state()?.into_iter().map(|(name, tensor)| Ok((name, tensor.copy()?))).collect()
}

/// Every trained parameter but those of `without` has a gradient in a step, and at the given places of the given
/// parameters it is the one that finite differences of the loss give. Choose smooth places: ReLU's kinks move under a
/// perturbation of an early layer. State that [`Method::step`] changes is put back in between.
pub fn assert_gradients(
    method: &mut (dyn Method + 'static),
    batch: &Batch,
    without: &[&str],
    places: &[(&str, usize)],
) -> Result<()> {
    deep(|| {
        let before = state(method)?;
        let loss = |method: &mut dyn Method| -> Result<Tensor> {
            method.load_state(&before)?;
            Ok(method.step(batch, &single(), &progress(1))?.loss)
        };
        let first = loss(method)?;
        let gradients = Gradients::of(method.params(), &first)?;
        for entry in method.params().parameters() {
            let expected = !without.iter().any(|name| entry.name.starts_with(name));
            assert_eq!(gradients.get(&entry.name).is_some(), expected, "gradient of {}", entry.name);
        }
        for &(name, place) in places {
            let gradient = gradients.get(name).ok_or_else(|| anyhow!("no gradient of {name}"))?;
            let analytic = f64::from(gradient.flatten_all()?.to_vec1::<f32>()?[place]);
            let step = 2e-3f32;
            nudge(method.params(), name, place, step)?;
            let up = value(&loss(method)?)?;
            nudge(method.params(), name, place, -2.0 * step)?;
            let down = value(&loss(method)?)?;
            nudge(method.params(), name, place, step)?;
            let numeric = (up - down) / (2.0 * f64::from(step));
            let gap = (numeric - analytic).abs();
            assert!(
                gap < 2e-3 + 0.03 * analytic.abs(),
                "{name}[{place}]: {analytic}, differences give {numeric}"
            );
        }
        Ok(())
    })
}

/// Moves one element of a parameter.
fn nudge(params: &ParamStore, name: &str, place: usize, delta: f32) -> Result<()> {
    let entry = params.get(name).ok_or_else(|| anyhow!("no parameter {name}"))?;
    let mut values = entry.var.flatten_all()?.to_vec1::<f32>()?;
    values[place] += delta;
    Ok(entry.var.set(&Tensor::from_vec(values, entry.var.shape(), &Device::Cpu)?)?)
}

/// All elements within `tolerance` of what a peer computed.
pub fn assert_close(what: &str, got: &Tensor, expected: &[f64], tolerance: f64) -> Result<()> {
    let got = got.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*g) - e).abs() < tolerance, "{what}[{i}]: {g}, expected {e}");
    }
    Ok(())
}
