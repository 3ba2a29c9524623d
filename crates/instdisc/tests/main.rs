//! What every method is held to, and InstDisc's golden numbers.

mod golden;

use anyhow::Result;
use candle_core::Device;
use contrastive_core::dist::single;
use contrastive_core::experiment::RunConfig;
use contrastive_core::train::Method;
use contrastive_instdisc::{InstDisc, InstDiscConfig, LossForm, recipe};
use contrastive_testing as testing;

/// The smoke preset with a network of four channels.
fn tiny() -> Result<RunConfig<InstDiscConfig>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.output = 8;
    run.method.bank_momentum = 0.5;
    run.train.batch_size = 96;
    Ok(run)
}

/// The same with NCE, whose Z is more state, and the proximal term. NCE's gradients are large sums: at a higher
/// temperature their rounding stays below the tolerances.
fn tiny_nce() -> Result<RunConfig<InstDiscConfig>> {
    let mut run = tiny()?;
    run.method =
        InstDiscConfig { loss: LossForm::Nce, negatives: 12, temperature: 0.3, proximal: 0.5, ..run.method };
    Ok(run)
}

/// All forms of the loss.
fn forms() -> Result<[RunConfig<InstDiscConfig>; 3]> {
    let mut sampled = tiny()?;
    sampled.method.negatives = 12;
    Ok([tiny()?, sampled, tiny_nce()?])
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    for run in forms()? {
        let mut method = InstDisc::new(run.method, 5, &Device::Cpu)?;
        method.prepare(64)?;
        // Z is a constant from the second step on.
        method.step(&testing::batch_at(1, 8, &[16])?, &single(), &testing::progress(0))?;
        method.after_update(&testing::progress(0))?;
        let places = [("head.0.weight", 3), ("head.0.weight", 200), ("head.0.bias", 2)];
        testing::assert_gradients(&mut method, &testing::batch(8, &[16])?, &[], &places)?;
    }
    Ok(())
}

#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    for run in forms()? {
        testing::assert_ranks(&run, 8, &[16], &[2, 4])?;
    }
    Ok(())
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    testing::assert_resumes(tiny()?)?;
    testing::assert_resumes(tiny_nce()?)
}

/// Z comes from the first batch and stays; the bank changes where samples were seen, after the update and not before.
#[test]
fn z_and_the_bank_change_when_they_should() -> Result<()> {
    let mut method = InstDisc::new(tiny_nce()?.method, 5, &Device::Cpu)?;
    assert!(method.step(&testing::batch(8, &[16])?, &single(), &testing::progress(0)).is_err());
    method.prepare(64)?;
    let rows = |method: &InstDisc| -> Result<Vec<Vec<f32>>> {
        Ok(method.bank().ok_or_else(|| anyhow::anyhow!("no bank"))?.rows().to_vec2::<f32>()?)
    };
    let before = rows(&method)?;
    let out = method.step(&testing::batch(8, &[16])?, &single(), &testing::progress(0))?;
    assert_eq!((rows(&method)?, method.z()), (before.clone(), None));
    method.after_update(&testing::progress(0))?;
    let (after, z) = (rows(&method)?, method.z());
    assert!(z.is_some_and(|z| z > 0.0));
    assert_eq!(after[8..], before[8..]);
    let feature = out.embeddings[0].to_vec2::<f32>()?;
    for row in 0..8 {
        let raw: Vec<f32> = before[row].iter().zip(&feature[row]).map(|(v, f)| 0.5 * v + 0.5 * f).collect();
        let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(after[row].iter().zip(&raw).all(|(got, x)| (got - x / norm).abs() < 1e-6), "row {row}");
    }
    method.step(&testing::batch_at(1, 8, &[16])?, &single(), &testing::progress(1))?;
    method.after_update(&testing::progress(1))?;
    assert_eq!(method.z(), z);
    Ok(())
}

#[test]
fn features_get_better() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.train.epochs = 24;
    testing::assert_learns(&run, 0.1)
}

#[test]
fn a_network_that_collapses_is_seen() -> Result<()> {
    testing::assert_network_collapse_is_seen(&tiny()?)
}

#[test]
fn no_collapse_is_seen_in_a_healthy_run() -> Result<()> {
    testing::assert_no_warnings(tiny()?, 3)
}
