//! What every method is held to, and SimCLR's golden numbers.

mod golden;
mod v2;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use contrastive_core::dist::single;
use contrastive_core::experiment::{MethodConfig, RunConfig};
use contrastive_core::nn::{Mode, Module};
use contrastive_core::optim::Gradients;
use contrastive_core::train::Method;
use contrastive_simclr::loss::simclr_loss;
use contrastive_simclr::{LossForm, SimClr, SimClrConfig, Version, recipe};
use contrastive_testing as testing;

/// The smoke preset with a network of four channels.
fn tiny() -> Result<RunConfig<SimClrConfig>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.head.hidden = Some(16);
    run.method.head.output = 8;
    Ok(run)
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    let config = SimClrConfig { loss: LossForm::Repository, ..tiny()?.method };
    let mut method = SimClr::new(config, 5, &Device::Cpu)?;
    let places = [
        ("head.0.weight", 3),
        ("head.1.weight", 2),
        ("head.3.weight", 7),
        ("head.4.weight", 1),
        ("head.4.bias", 0),
    ];
    testing::assert_gradients(&mut method, &testing::batch(8, &[16, 16])?, &[], &places)
}

#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let run = tiny()?;
    testing::assert_ranks(&run, 8, &[16, 16], &[2, 4])
}

#[test]
fn a_wrong_factor_of_the_number_of_ranks_is_seen() -> Result<()> {
    testing::assert_wrong_factor_is_seen(&tiny()?, 8, &[16, 16])
}

/// The chunked step is the plain one with batch statistics of chunks: the same forward passes with all graphs kept.
#[test]
fn chunks_change_neither_loss_nor_gradient() -> Result<()> {
    for (version, layers) in [(Version::V1, 2), (Version::V2, 3)] {
        let mut config = tiny()?.method;
        (config.version, config.head.layers) = (version, layers);
        for chunk in [2, 4] {
            chunks_change_nothing(SimClrConfig { chunk: Some(chunk), ..config.clone() }, chunk)?;
        }
    }
    let config = SimClrConfig { chunk: Some(3), ..tiny()?.method };
    let refused = config
        .build(1, &Device::Cpu)?
        .step(&testing::batch(8, &[16, 16])?, &single(), &testing::progress(0))
        .map(drop)
        .map_or_else(|e| e.to_string(), |()| String::new());
    assert!(refused.contains("method.chunk") && refused.contains("8 samples"), "{refused}");
    Ok(())
}

fn chunks_change_nothing(config: SimClrConfig, chunk: usize) -> Result<()> {
    let batch = testing::batch(8, &[16, 16])?;
    let [x1, x2] = batch.views.as_slice() else { anyhow::bail!("two views") };
    let mut method = config.build(1, &Device::Cpu)?;
    let mut out = method.step(&batch, &single(), &testing::progress(0))?;
    let own = out.take_gradients(method.params())?;

    let plain = SimClr::new(config.clone(), 1, &Device::Cpu)?;
    let mode = Mode::train(&single());
    let (mut z1, mut z2) = (Vec::new(), Vec::new());
    for c in 0..8 / chunk {
        let part = |x: &Tensor| x.narrow(0, c * chunk, chunk);
        let x = Tensor::cat(&[part(x1)?, part(x2)?], 0)?;
        let z = plain.model().head.forward(&plain.model().backbone.forward(&x, &mode)?, &mode)?;
        z1.push(z.narrow(0, 0, chunk)?);
        z2.push(z.narrow(0, chunk, chunk)?);
    }
    let (z1, z2) = (Tensor::cat(&z1, 0)?, Tensor::cat(&z2, 0)?);
    let loss = simclr_loss(&z1, &z2, config.temperature, config.loss, &single())?.loss;
    let expected = Gradients::of(plain.params(), &loss)?;

    let scalar = |x: &Tensor| x.to_scalar::<f32>();
    assert!((scalar(&out.loss)? - scalar(&loss)?).abs() < 1e-6, "chunks of {chunk}");
    testing::assert_same_gradients(&format!("chunks of {chunk}"), &own, &expected)?;
    // The second pass of the cache leaves running statistics alone.
    for (a, b) in method.params().tensors().iter().zip(plain.params().tensors()) {
        let gap = (&a.1 - &b.1)?.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        assert!(gap < 1e-6, "{} differs by {gap}", a.0);
    }
    Ok(())
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    testing::assert_resumes(tiny()?)
}

#[test]
fn features_get_better() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.train.epochs = 4;
    testing::assert_learns(&run, 0.05)
}

/// Batch norm at the end of the head and negatives leave SimCLR no known way to collapse; the instruments must not see
/// one.
#[test]
fn no_collapse_is_seen() -> Result<()> {
    testing::assert_no_warnings(tiny()?, 3)
}
