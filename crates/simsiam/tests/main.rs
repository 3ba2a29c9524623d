//! What every method is held to, and SimSiam's golden numbers.

mod golden;

use anyhow::Result;
use candle_core::{Device, Tensor};
use contrastive_core::diagnostics::WarningKind;
use contrastive_core::dist::single;
use contrastive_core::experiment::{RunConfig, tiers};
use contrastive_core::nn::ResNetConfig;
use contrastive_core::optim::Gradients;
use contrastive_core::train::Method;
use contrastive_simsiam::{Predictor, SimSiam, SimSiamConfig, recipe};
use contrastive_testing as testing;

/// The smoke preset with a network of four channels.
fn tiny() -> Result<RunConfig<SimSiamConfig>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.head.hidden = Some(16);
    run.method.head.output = 8;
    run.method.head.predictor_hidden = 4;
    Ok(run)
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    // Differences of the loss see both sides of it, so nothing may be cut from the graph here.
    let mut config = SimSiamConfig { stop_gradient: false, ..tiny()?.method };
    config.head.last_affine = true;
    config.head.layers = 3;
    let mut method = SimSiam::new(config, 5, &Device::Cpu)?;
    let places = [
        ("projector.0.weight", 3),
        ("projector.1.weight", 2),
        ("projector.3.weight", 7),
        ("projector.6.weight", 9),
        ("projector.7.bias", 1),
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
        let chunked = SimSiamConfig { chunk: Some(chunk), ..plain.clone() };
        testing::assert_accumulates(&plain, &chunked, chunk, &testing::batch(8, &[16, 16])?)?;
    }
    Ok(())
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    testing::assert_resumes(tiny()?)
}

/// All of the preset's epochs, at half of its width: without negatives the first ones only find the targets.
#[test]
fn features_get_better() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = ResNetConfig { base_width: 8, ..tiers::narrow_resnet() }.into();
    testing::assert_learns(&run, 0.1)
}

/// The gradients of one step on the same noise.
fn gradients(config: SimSiamConfig) -> Result<(SimSiam, Gradients)> {
    let mut method = SimSiam::new(config, 5, &Device::Cpu)?;
    let out = method.step(&testing::batch(8, &[16, 16])?, &single(), &testing::progress(0))?;
    let gradients = Gradients::of(method.params(), &out.loss)?;
    Ok((method, gradients))
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

/// Without a predictor both sides of a pair are alike, so that cutting one side leaves exactly half of the gradient.
#[test]
fn stop_gradient_cuts_one_side_of_each_pair() -> Result<()> {
    testing::deep(|| {
        let config = SimSiamConfig { predictor: Predictor::None, ..tiny()?.method };
        let (method, half) = gradients(config.clone())?;
        let (_, whole) = gradients(SimSiamConfig { stop_gradient: false, ..config })?;
        for entry in method.params().parameters() {
            let of = |g: &Gradients| values(g.get(&entry.name).expect("a gradient"));
            for (half, whole) in of(&half)?.iter().zip(of(&whole)?) {
                assert!(
                    (2.0 * half - whole).abs() < 1e-4 * whole.abs().max(0.1),
                    "{}: {half}, {whole}",
                    entry.name
                );
            }
        }
        Ok(())
    })
}

/// The names of the parameters that an optimiser step at rate 0 moves.
fn moved_at_rate_0(change: impl FnOnce(&mut RunConfig<SimSiamConfig>)) -> Result<Vec<String>> {
    let mut run = tiny()?;
    change(&mut run);
    testing::deep(|| {
        let (method, gradients) = gradients(run.method.clone())?;
        let before: Vec<_> =
            method.params().tensors().into_iter().map(|(_, t)| values(&t)).collect::<Result<_>>()?;
        run.optimizer(method.params())?.step(&gradients, 0.0)?;
        let mut moved = Vec::new();
        for ((name, now), before) in method.params().tensors().into_iter().zip(before) {
            if values(&now)? != before {
                moved.push(name);
            }
        }
        Ok(moved)
    })
}

#[test]
fn the_predictor_has_a_rate_of_its_own() -> Result<()> {
    let moved = moved_at_rate_0(|run| run.method.predictor_lr = Some(0.1))?;
    assert_eq!(moved.len(), 5, "{moved:?}");
    assert!(moved.iter().all(|name| name.starts_with("predictor.")), "{moved:?}");
    assert!(moved_at_rate_0(|run| run.method.predictor_lr = None)?.is_empty());
    let fixed = |run: &mut RunConfig<SimSiamConfig>| {
        (run.method.predictor, run.method.predictor_lr) = (Predictor::Fixed, Some(0.1));
    };
    assert!(moved_at_rate_0(fixed)?.is_empty());
    Ok(())
}

#[test]
fn weight_decay_reaches_every_parameter() -> Result<()> {
    let run = recipe::preset("imagenet")?;
    let mut config = tiny()?.method;
    (config.head.last_affine, config.predictor_lr) = (true, Some(0.1));
    let method = SimSiam::new(config.clone(), 5, &Device::Cpu)?;
    let run = RunConfig { method: config, ..run };
    let entries = method.params().parameters();
    for entry in &entries {
        entry.var.set(&entry.var.ones_like()?)?;
    }
    let none =
        entries.iter().map(|e| Ok((e.name.clone(), e.var.zeros_like()?))).collect::<Result<Vec<_>>>()?;
    run.optimizer(method.params())?.step(&Gradients::from_named(none), 0.1)?;
    for entry in &entries {
        testing::assert_close(
            &entry.name,
            &entry.var.flatten_all()?.narrow(0, 0, 1)?,
            &[1.0 - 0.1 * 1e-4],
            1e-6,
        )?;
    }
    Ok(())
}

/// What the instruments say of a few epochs.
fn warnings(change: impl FnOnce(&mut RunConfig<SimSiamConfig>)) -> Result<Vec<WarningKind>> {
    let mut run = tiny()?;
    (run.train.epochs, run.train.batch_size, run.optim.lr) = (6, 96, 0.8);
    change(&mut run);
    testing::warnings(&run)
}

#[test]
fn a_healthy_run_raises_no_warning() -> Result<()> {
    assert_eq!(warnings(|_| ())?, []);
    assert_eq!(warnings(|run| run.method.head.last_affine = true)?, []);
    Ok(())
}

/// With gamma and beta in the projector's last batch norm collapse gives one row for all samples; without them the mean is
/// 0, and collapse gives few directions.
fn assert_collapse(change: impl Fn(&mut SimSiamConfig)) -> Result<()> {
    for (affine, kind) in [(true, WarningKind::Constant), (false, WarningKind::Rank)] {
        let seen = warnings(|run| {
            run.method.head.last_affine = affine;
            change(&mut run.method);
        })?;
        assert!(seen.contains(&kind), "last_affine = {affine}: {seen:?}, expected {kind:?}");
    }
    Ok(())
}

#[test]
fn collapse_without_stop_gradient_is_seen() -> Result<()> {
    assert_collapse(|config| config.stop_gradient = false)
}

#[test]
fn collapse_without_predictor_is_seen() -> Result<()> {
    assert_collapse(|config| config.predictor = Predictor::None)
}
