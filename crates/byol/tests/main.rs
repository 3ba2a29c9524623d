//! What every method is held to, and BYOL's golden numbers.

mod golden;

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_byol::{Byol, ByolConfig, LossForm, MomentumSchedule, TargetInit, recipe};
use contrastive_core::diagnostics::WarningKind;
use contrastive_core::dist::single;
use contrastive_core::experiment::{RunConfig, tiers};
use contrastive_core::nn::ResNetConfig;
use contrastive_core::optim::Gradients;
use contrastive_core::train::Method;
use contrastive_testing as testing;

/// The smoke preset with a network of four channels.
fn tiny() -> Result<RunConfig<ByolConfig>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.head.hidden = 16;
    run.method.head.output = 8;
    run.method.head.predictor_hidden = 16;
    Ok(run)
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    let config = ByolConfig { loss: LossForm::Paper, target: TargetInit::Fresh, ..tiny()?.method };
    let mut method = Byol::new(config, 5, &Device::Cpu)?;
    let places = [
        ("projector.0.weight", 3),
        ("projector.1.weight", 2),
        ("projector.3.weight", 7),
        ("projector.3.bias", 0),
        ("predictor.0.weight", 4),
        ("predictor.1.bias", 1),
        ("predictor.3.weight", 9),
        ("predictor.3.bias", 2),
    ];
    testing::assert_gradients(&mut method, &testing::batch(8, &[16, 16])?, &[], &places)
}

#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let run = tiny()?;
    testing::assert_ranks(&run, 8, &[16, 16], &[2, 4])
}

/// Batch statistics are those of chunks, so a chunk is a batch.
#[test]
fn chunks_change_neither_loss_nor_gradient() -> Result<()> {
    let plain = tiny()?.method;
    for chunk in [2, 4] {
        let chunked = ByolConfig { chunk: Some(chunk), ..plain.clone() };
        testing::assert_accumulates(&plain, &chunked, chunk, &testing::batch(8, &[16, 16])?)?;
    }
    Ok(())
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    let mut run = tiny()?;
    run.method.target = TargetInit::Fresh;
    run.method.momentum_schedule = MomentumSchedule::Cosine;
    testing::assert_resumes(run)
}

/// All of the preset's epochs, at half of its width: without negatives the first ones only find the targets.
#[test]
fn features_get_better() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = ResNetConfig { base_width: 8, ..tiers::narrow_resnet() }.into();
    testing::assert_learns(&run, 0.1)
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

/// Algorithm 1: the target moves after the optimiser, towards the parameters that it has made, and keeps running
/// statistics of its own, which its forward pass in train mode moves.
#[test]
fn the_target_follows_the_new_parameters() -> Result<()> {
    testing::deep(|| {
        let mut run = tiny()?;
        (run.method.momentum, run.method.target) = (0.75, TargetInit::Fresh);
        let mut method = Byol::new(run.method.clone(), 5, &Device::Cpu)?;
        let mut optimizer = run.optimizer(method.params())?;
        let (before, progress) = (testing::state(&method)?, testing::progress(3));
        let out = method.step(&testing::batch(8, &[16, 16])?, &single(), &progress)?;
        let gradients = Gradients::of(method.params(), &out.loss)?;
        let mut moved = 0;
        for (name, now) in method.state()? {
            let same = values(&now)? == values(&before[&name])?;
            assert_eq!(same, !name.contains("running_"), "{name} after the forward pass");
        }
        let forward = testing::state(&method)?;
        optimizer.step(&gradients, 0.5)?;
        method.after_update(&progress)?;
        for (name, now) in method.state()? {
            let online =
                method.params().get(name.trim_start_matches("momentum.")).expect("the online network's");
            let old = values(&forward[&name])?;
            for ((now, old), online) in values(&now)?.iter().zip(&old).zip(values(online.var.as_tensor())?) {
                let expected = if name.contains("running_") { *old } else { 0.75 * old + 0.25 * online };
                assert!((now - expected).abs() < 1e-6, "{name}: {now}, expected {expected}");
                moved += usize::from(now != old);
            }
        }
        assert!(moved > 1000, "{moved} elements moved");
        Ok(())
    })
}

#[test]
fn the_target_begins_as_a_copy_or_with_its_own_draws() -> Result<()> {
    for (target, same) in [(TargetInit::Copy, true), (TargetInit::Fresh, false)] {
        let method = Byol::new(ByolConfig { target, ..tiny()?.method }, 5, &Device::Cpu)?;
        let state = testing::state(&method)?;
        let name = "projector.0.weight";
        let online = method.params().get(name).expect("a projector");
        assert_eq!(values(online.var.as_tensor())? == values(&state[&format!("momentum.{name}")])?, same);
    }
    Ok(())
}

/// What the instruments say of a few epochs.
fn warnings(change: impl FnOnce(&mut RunConfig<ByolConfig>)) -> Result<Vec<WarningKind>> {
    let mut run = tiny()?;
    run.train.epochs = 6;
    change(&mut run);
    testing::warnings(&run)
}

#[test]
fn a_healthy_run_raises_no_warning() -> Result<()> {
    assert_eq!(warnings(|_| ())?, []);
    Ok(())
}

#[test]
fn collapse_without_predictor_is_seen() -> Result<()> {
    assert!(warnings(|run| run.method.predictor = false)?.contains(&WarningKind::Constant));
    Ok(())
}

/// τ = 0 makes the target the online network of the step before. The paper reports collapse (table 5); SimSiam, which is
/// that with a stop-gradient, does not collapse, and here it takes the missing predictor as well.
#[test]
fn collapse_without_slow_target_is_seen() -> Result<()> {
    let fast = warnings(|run| run.method.momentum = 0.0)?;
    assert!(!fast.contains(&WarningKind::Constant), "{fast:?}");
    let both = warnings(|run| (run.method.momentum, run.method.predictor) = (0.0, false))?;
    assert!(both.contains(&WarningKind::Constant), "{both:?}");
    Ok(())
}
