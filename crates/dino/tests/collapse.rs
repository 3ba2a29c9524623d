//! The two ways in which DINO collapses (paper, section 5.3), and that the instruments see them.

use anyhow::Result;
use contrastive_core::diagnostics::WarningKind;
use contrastive_dino::{DinoConfig, TeacherTemperature, recipe};
use contrastive_testing as testing;

/// What the instruments say of six epochs of the smoke preset with a network of four channels.
fn warnings(change: impl FnOnce(&mut DinoConfig)) -> Result<Vec<WarningKind>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.head.hidden = 64;
    run.train.epochs = 6;
    change(&mut run.method);
    testing::warnings(&run)
}

/// Whether the teacher's distributions are reported to say nothing of their samples.
fn alike(change: impl FnOnce(&mut DinoConfig)) -> Result<bool> {
    Ok(warnings(change)?.contains(&WarningKind::Assignments))
}

#[test]
fn a_healthy_teacher_tells_samples_apart() -> Result<()> {
    assert!(!alike(|_| ())?);
    Ok(())
}

/// One dimension comes to dominate.
#[test]
fn collapse_without_centring_is_seen() -> Result<()> {
    assert!(alike(|config| config.centre = false)?);
    Ok(())
}

/// With the student's own temperature, or a higher one, the distributions become uniform.
#[test]
fn collapse_without_sharpening_is_seen() -> Result<()> {
    for temperature in [0.1, 1.0] {
        assert!(alike(|config| config.teacher_temperature = TeacherTemperature::constant(temperature))?);
    }
    Ok(())
}
