//! What every method is held to, and SimCLR's golden numbers.

mod golden;
mod v2;

use anyhow::Result;
use candle_core::Device;
use contrastive_core::experiment::RunConfig;
use contrastive_simclr::{LossForm, SimClr, SimClrConfig, recipe};
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
    testing::assert_ranks(|_| run.clone(), 8, &[16, 16], &[2, 4])
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
