//! What every method is held to, and CMC's golden numbers.

mod crd;
mod golden;
mod video;
mod views;

use anyhow::Result;
use candle_core::Device;
use contrastive_cmc::{Cmc, CmcConfig, Form, recipe};
use contrastive_core::data::{Split, embedded};
use contrastive_core::dist::single;
use contrastive_core::eval::{Protocol, metric};
use contrastive_core::experiment::{MethodConfig, RunConfig, RunOptions, features, fit};
use contrastive_core::nn::{BackboneConfig, HalfConfig, SplitConfig};
use contrastive_core::train::Method;
use contrastive_testing as testing;

/// The smoke preset with networks of four channels.
fn tiny(form: Form) -> Result<RunConfig<CmcConfig>> {
    let mut run = recipe::preset("smoke")?;
    if let BackboneConfig::Resnet(network) = testing::tiny_resnet() {
        run.method.backbone = SplitConfig::brightness_and_colour(HalfConfig::Resnet(network)).into();
    }
    run.method.output = 8;
    run.method.contrast.form = form;
    // NCE's gradients are large sums: at a higher temperature their rounding stays below the tolerances.
    run.method.contrast.temperature = 0.3;
    run.train.batch_size = 96;
    Ok(run)
}

const FORMS: [Form; 4] = [
    Form::Nce { negatives: 12 },
    Form::Softmax { negatives: 12 },
    Form::Softmax { negatives: 0 },
    Form::InBatch {},
];

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    for form in FORMS {
        let mut method = Cmc::new(tiny(form)?.method, 5, &Device::Cpu)?;
        method.prepare(64)?;
        // Z is a constant from the second step on.
        method.step(&testing::batch_at(1, 8, &[16])?, &single(), &testing::progress(0))?;
        method.after_update(&testing::progress(0))?;
        let places = [("head.0.0.weight", 3), ("head.1.0.weight", 200), ("head.1.0.bias", 2)];
        testing::assert_gradients(&mut method, &testing::batch(8, &[16])?, &[], &places)?;
    }
    Ok(())
}

#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    for form in FORMS {
        let mut run = tiny(form)?;
        // Two networks in one loss: activations at ReLU's kink fall to either side with rounding, and gradients of a
        // high temperature make little of it.
        run.method.contrast.temperature = 4.0;
        testing::assert_ranks(&run, 16, &[16], &[2, 4])?;
    }
    Ok(())
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    testing::assert_resumes(tiny(Form::Nce { negatives: 12 })?)?;
    testing::assert_resumes(tiny(Form::InBatch {})?)
}

/// Z comes from the first batch and stays; each bank changes where samples were seen, after the update and not before,
/// by its own view.
#[test]
fn z_and_the_banks_change_when_they_should() -> Result<()> {
    let mut method = Cmc::new(tiny(Form::Nce { negatives: 12 })?.method, 5, &Device::Cpu)?;
    assert!(method.step(&testing::batch(8, &[16])?, &single(), &testing::progress(0)).is_err());
    method.prepare(64)?;
    let banks = |method: &Cmc| -> Result<Vec<Vec<Vec<f32>>>> {
        method.contrast().banks().iter().map(|bank| Ok(bank.rows().to_vec2::<f32>()?)).collect()
    };
    let before = banks(&method)?;
    let out = method.step(&testing::batch(8, &[16])?, &single(), &testing::progress(0))?;
    assert_eq!((banks(&method)?, method.contrast().z()), (before.clone(), [None, None].as_slice()));
    method.after_update(&testing::progress(0))?;
    let after = banks(&method)?;
    let z = method.contrast().z().to_vec();
    assert!(z.iter().all(|z| z.is_some_and(|z| z > 0.0)) && z[0] != z[1], "{z:?}");
    for view in 0..2 {
        assert_eq!(after[view][8..], before[view][8..]);
        let feature = out.embeddings[view].to_vec2::<f32>()?;
        for row in 0..8 {
            let pairs = before[view][row].iter().zip(&feature[row]);
            let raw: Vec<f32> = pairs.map(|(v, f)| 0.5 * v + 0.5 * f).collect();
            let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
            let near = after[view][row].iter().zip(&raw).all(|(got, x)| (got - x / norm).abs() < 1e-6);
            assert!(near, "view {view}, row {row}");
        }
    }
    method.step(&testing::batch_at(1, 8, &[16])?, &single(), &testing::progress(1))?;
    method.after_update(&testing::progress(1))?;
    assert_eq!(method.contrast().z(), z);
    Ok(())
}

/// Linear top-1 of a method's features on the embedded digits.
fn linear<M: MethodConfig>(method: &dyn Method, run: &RunConfig<M>) -> Result<f64> {
    let of = |split| -> Result<_> {
        let source = embedded::sign_digits(split)?;
        Ok(features(|x| method.features(x), source, &run.eval, &Device::Cpu, 1)?.0)
    };
    let metrics = Protocol::LinearLbfgsV1.evaluate(&of(Split::Train)?, &of(Split::Test)?)?;
    metric(&metrics, "top1").ok_or_else(|| anyhow::anyhow!("no top1"))
}

/// Nearest neighbours of a split network of random weights are good already on these digits, so a linear classifier
/// tells whether something was learned.
#[test]
fn features_get_better() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.train.epochs = 8;
    let random = linear(run.method.build(run.train.seed, &Device::Cpu)?.as_ref(), &run)?;
    let folder = tempfile::tempdir()?;
    let source = embedded::sign_digits(Split::Train)?;
    let (method, _) = fit(&run, source, RunOptions::new(folder.path().join("run")))?;
    let trained = linear(method.as_ref(), &run)?;
    assert!(trained > random + 0.05, "random {random:.3}, trained {trained:.3}");
    Ok(())
}

#[test]
fn a_network_that_collapses_is_seen() -> Result<()> {
    testing::assert_network_collapse_is_seen(&tiny(Form::InBatch {})?)
}

#[test]
fn no_collapse_is_seen_in_a_healthy_run() -> Result<()> {
    testing::assert_no_warnings(tiny(Form::InBatch {})?, 3)
}
