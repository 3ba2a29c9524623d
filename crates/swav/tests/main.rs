//! What every method is held to, and SwAV's golden numbers.

mod golden;

use anyhow::{Result, anyhow};
use candle_core::Device;
use contrastive_core::augment::ops::view;
use contrastive_core::diagnostics::WarningKind;
use contrastive_core::dist::single;
use contrastive_core::experiment::{RunConfig, tiers};
use contrastive_core::nn::Mode;
use contrastive_core::train::Method;
use contrastive_swav::{QueueConfig, Swav, SwavConfig, recipe};
use contrastive_testing as testing;

/// The smoke preset with a network of four channels, and with two small crops.
fn tiny() -> Result<RunConfig<SwavConfig>> {
    let mut run = recipe::preset("smoke")?;
    run.augment.views.push(view("small", 2, tiers::light_ops(12, [0.08, 0.3], 0.0, tiers::SMOKE_NORM)));
    run.method.views = 4;
    run.method.backbone = testing::tiny_resnet();
    run.method.projector.hidden = 16;
    run.method.projector.output = 8;
    run.method.prototypes = 12;
    Ok(run)
}

/// Sides of its views.
const SIDES: [usize; 4] = [16, 16, 12, 12];

/// The assignments follow the scores without a gradient, which differences cannot know: an ε at which they hardly move.
#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    let config = SwavConfig { epsilon: 1e4, ..tiny()?.method };
    let mut method = Swav::new(config, 5, &Device::Cpu)?;
    let places = [
        ("projector.0.weight", 3),
        ("projector.0.bias", 1),
        ("projector.1.weight", 2),
        ("projector.3.weight", 7),
        ("projector.3.bias", 0),
        ("prototypes.weight", 5),
    ];
    testing::assert_gradients(&mut method, &testing::batch(8, &SIDES)?, &[], &places)
}

/// The second step assigns with a queue that the first has filled. The paper's ε: harder assignments turn the last digits
/// of the scores, which ranks add up in another order, into other gradients.
#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let mut run = tiny()?;
    run.method.epsilon = 0.05;
    run.method.queue = QueueConfig { length: 16, start_epoch: 0 };
    testing::assert_ranks(&run, 16, &SIDES, &[2, 4])
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    let mut run = tiny()?;
    // Begins to fill with step 5 of 10, is full and used after 2 steps.
    run.method.queue = QueueConfig { length: 40, start_epoch: 1 };
    run.method.freeze_steps = 3;
    testing::assert_resumes(run)
}

#[test]
fn features_get_better() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.train.epochs = 8;
    testing::assert_learns(&run, 0.05)
}

/// Views of one size share their batch statistics, views of two sizes do not.
#[test]
fn views_of_one_size_are_one_batch() -> Result<()> {
    let method = Swav::new(tiny()?.method, 5, &Device::Cpu)?;
    let (mode, n) = (Mode::train(&single()), 8);
    let batch = testing::batch(n, &SIDES)?;
    let first = method.model().features(&batch.views, &mode)?;
    let mut views = batch.views.clone();
    views[1] = (&views[1] * 2.0)?;
    let second = method.model().features(&views, &mode)?;
    for (view, changes) in [(0, true), (2, false), (3, false)] {
        let gap = (first.narrow(0, view * n, n)? - second.narrow(0, view * n, n)?)?.abs()?;
        assert_eq!(gap.max_all()?.to_scalar::<f32>()? > 0.0, changes, "view {view}");
    }
    Ok(())
}

#[test]
fn prototypes_have_unit_length_and_stay_at_first() -> Result<()> {
    let mut method = Swav::new(SwavConfig { freeze_steps: 10, ..tiny()?.method }, 5, &Device::Cpu)?;
    method.before_step(&testing::progress(0))?;
    let prototypes = method.params().get("prototypes.weight").ok_or_else(|| anyhow!("no prototypes"))?;
    for length in prototypes.var.as_detached_tensor().sqr()?.sum(1)?.to_vec1::<f32>()? {
        assert!((length - 1.0).abs() < 1e-6, "{length}");
    }
    let frozen = |name, step| method.frozen(name, &testing::progress(step));
    assert!(frozen("prototypes.weight", 9) && !frozen("prototypes.weight", 10));
    assert!(!frozen("projector.3.weight", 0));
    Ok(())
}

#[test]
fn a_queue_shorter_than_a_batch_is_refused_at_once() -> Result<()> {
    let mut run = tiny()?;
    run.method.queue = QueueConfig { length: 7, start_epoch: 9 };
    let mut method = Swav::new(run.method, 5, &Device::Cpu)?;
    let step = method.step(&testing::batch(8, &SIDES)?, &single(), &testing::progress(0));
    let text = step.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(text.contains("method.queue.length"), "{text}");
    Ok(())
}

/// What the instruments say of three epochs of the smoke preset with a network of four channels and batches of 96, after
/// `change`.
fn warnings_of(change: impl Fn(&mut SwavConfig)) -> Result<Vec<WarningKind>> {
    warnings_at(0.3, change)
}

/// The same at another learning rate.
fn warnings_at(lr: f64, change: impl Fn(&mut SwavConfig)) -> Result<Vec<WarningKind>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.projector.hidden = 64;
    (run.train.epochs, run.train.batch_size) = (3, 96);
    run.optim.lr = lr;
    change(&mut run.method);
    testing::warnings(&run)
}

#[test]
fn no_collapse_is_seen() -> Result<()> {
    assert!(warnings_of(|_| {})?.is_empty());
    Ok(())
}

/// A queue of five batches: the first embeddings in it come from networks that have little to do with each other.
#[test]
fn a_queue_from_the_start_collapses() -> Result<()> {
    let early = |method: &mut SwavConfig| {
        method.prototypes = 64;
        method.queue = QueueConfig { length: 480, start_epoch: 0 };
    };
    assert_eq!(warnings_of(early)?, [WarningKind::Rank]);
    Ok(())
}

#[test]
fn assignments_that_need_not_spread_collapse() -> Result<()> {
    assert_eq!(warnings_of(|method| method.sinkhorn_iterations = 0)?, [WarningKind::Constant]);
    Ok(())
}

#[test]
fn assignments_that_are_too_soft_collapse() -> Result<()> {
    assert_eq!(warnings_of(|method| method.epsilon = 0.5)?, [WarningKind::Rank]);
    Ok(())
}

#[test]
fn far_more_prototypes_than_samples_collapse() -> Result<()> {
    assert_eq!(warnings_of(|method| method.prototypes = 512)?, [WarningKind::Rank]);
    Ok(())
}

/// Where lengths are free, large steps make prototypes so long that every prediction is certain, and nothing is left to
/// learn from. Unit length does not save such a rate, but keeps the gradient.
#[test]
fn prototypes_of_any_length_stop_learning() -> Result<()> {
    let stops = |unit: bool| -> Result<bool> {
        let seen = warnings_at(3.0, |method| method.normalize_prototypes = unit)?;
        Ok(seen.contains(&WarningKind::VanishingGradient))
    };
    assert!(stops(false)?, "of any length");
    assert!(!stops(true)?, "of unit length");
    Ok(())
}
