//! What every method is held to, and InvaSpread's golden numbers.

mod golden;

use anyhow::{Result, anyhow};
use candle_core::{Device, Tensor};
use contrastive_core::dist::single;
use contrastive_core::experiment::RunConfig;
use contrastive_core::nn::{Mode, Module, VitConfig};
use contrastive_core::optim::Gradients;
use contrastive_core::train::Method;
use contrastive_invaspread::loss::{criterion, invaspread_loss};
use contrastive_invaspread::{InvaSpread, InvaSpreadConfig, recipe};
use contrastive_testing as testing;

/// The smoke preset with a network of four channels.
fn tiny() -> Result<RunConfig<InvaSpreadConfig>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.output = 8;
    Ok(run)
}

/// The gradient is one-sided, so it is not the derivative of the loss as a function of the network. It is that of the
/// criterion against constants, where the constants are the embeddings before a parameter is moved.
#[test]
fn every_parameter_has_the_one_sided_gradient() -> Result<()> {
    let config = tiny()?.method;
    let (temperature, weight) = (config.temperature, config.negative_weight);
    let mut method = InvaSpread::new(config, 5, &Device::Cpu)?;
    let batch = testing::batch(8, &[16, 16])?;
    testing::assert_gradients(&mut method, &batch, &[], &[])?;
    testing::deep(move || {
        let loss = method.step(&batch, &single(), &testing::progress(0))?.loss;
        let gradients = Gradients::of(method.params(), &loss)?;
        let x = Tensor::cat(&batch.views, 0)?;
        let embed =
            || -> Result<Tensor> { Ok(method.model().forward(&x, &Mode::train(&single()).without_grad())?) };
        let constant = embed()?.copy()?;
        for (name, place) in [("head.0.weight", 3), ("head.0.weight", 200), ("head.0.bias", 2)] {
            let entry = method.params().get(name).ok_or_else(|| anyhow!("no parameter {name}"))?;
            let start = entry.var.flatten_all()?.to_vec1::<f32>()?;
            let at = |delta: f32| -> Result<f64> {
                let mut values = start.clone();
                values[place] += delta;
                entry.var.set(&Tensor::from_vec(values, entry.var.shape(), &Device::Cpu)?)?;
                testing::value(&criterion(&embed()?, &constant, temperature, weight, &single())?.loss)
            };
            let numeric = (at(2e-3)? - at(-2e-3)?) / 4e-3;
            at(0.0)?;
            let gradient = gradients.get(name).ok_or_else(|| anyhow!("no gradient of {name}"))?;
            let analytic = f64::from(gradient.flatten_all()?.to_vec1::<f32>()?[place]);
            let gap = (numeric - analytic).abs();
            assert!(
                gap < 2e-3 + 0.03 * analytic.abs(),
                "{name}[{place}]: {analytic}, differences give {numeric}"
            );
        }
        Ok(())
    })
}

#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let run = tiny()?;
    testing::assert_ranks(&run, 8, &[16, 16], &[2, 4])
}

/// A network without batch statistics: the step of the whole batch. With them: the same with those of chunks.
#[test]
fn chunks_change_neither_loss_nor_gradient() -> Result<()> {
    let vit = VitConfig { image: 20, patch: 5, dim: 16, depth: 2, heads: 4, ..VitConfig::tiny(5) };
    let plain = InvaSpreadConfig { backbone: vit.into(), ..tiny()?.method };
    for chunk in [2, 4] {
        let chunked = InvaSpreadConfig { chunk: Some(chunk), ..plain.clone() };
        testing::assert_chunks(&plain, &chunked, &testing::batch(8, &[20, 20])?)?;
    }
    let config = InvaSpreadConfig { chunk: Some(2), ..tiny()?.method };
    let batch = testing::batch(8, &[16, 16])?;
    let [x1, x2] = batch.views.as_slice() else { anyhow::bail!("two views") };
    let mut method = InvaSpread::new(config.clone(), 1, &Device::Cpu)?;
    let mut out = method.step(&batch, &single(), &testing::progress(0))?;
    let own = out.take_gradients(method.params())?;

    let fresh = InvaSpread::new(config.clone(), 1, &Device::Cpu)?;
    let (mut z1, mut z2) = (Vec::new(), Vec::new());
    for c in 0..4 {
        let part = |x: &Tensor| x.narrow(0, 2 * c, 2);
        let z = fresh.model().forward(&Tensor::cat(&[part(x1)?, part(x2)?], 0)?, &Mode::train(&single()))?;
        z1.push(z.narrow(0, 0, 2)?);
        z2.push(z.narrow(0, 2, 2)?);
    }
    let (z1, z2) = (Tensor::cat(&z1, 0)?, Tensor::cat(&z2, 0)?);
    let (temperature, weight) = (config.temperature, config.negative_weight);
    let loss = invaspread_loss(&z1, &z2, temperature, weight, &single())?.loss;
    assert!((testing::value(&out.loss)? - testing::value(&loss)?).abs() < 1e-5);
    testing::assert_same_gradients("chunks of 2", &own, &Gradients::of(fresh.params(), &loss)?)
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    testing::assert_resumes(tiny()?)
}

#[test]
fn features_get_better() -> Result<()> {
    testing::assert_learns(&recipe::preset("smoke")?, 0.05)
}

#[test]
fn a_network_that_collapses_is_seen() -> Result<()> {
    testing::assert_network_collapse_is_seen(&tiny()?)
}

#[test]
fn no_collapse_is_seen_in_a_healthy_run() -> Result<()> {
    testing::assert_no_warnings(tiny()?, 3)
}
