//! What every method is held to, what DINO's parts do, and its golden numbers.

mod collapse;
mod golden;
mod parts;

use anyhow::Result;
use candle_core::Device;
use contrastive_core::experiment::RunConfig;
use contrastive_dino::{Dino, DinoConfig, HeadConfig, TeacherTemperature, recipe};
use contrastive_testing as testing;

/// The smoke preset with a network of four channels, a small head and two local views.
fn tiny() -> Result<RunConfig<DinoConfig>> {
    let mut run = recipe::preset("smoke")?;
    run.method.backbone = testing::tiny_resnet();
    run.method.head = HeadConfig { hidden: 16, bottleneck: 8, output: 12, ..run.method.head };
    Ok(run)
}

/// The smoke preset of the vision transformer with two blocks.
fn tiny_vit() -> Result<RunConfig<DinoConfig>> {
    let mut run = recipe::preset("smoke-vit")?;
    let contrastive_core::nn::BackboneConfig::Vit(vit) = &mut run.method.backbone else {
        anyhow::bail!("not a vision transformer");
    };
    (vit.dim, vit.depth, vit.drop_path) = (12, 2, 0.5);
    run.method.head = HeadConfig { hidden: 16, bottleneck: 8, output: 12, ..run.method.head };
    Ok(run)
}

#[test]
fn every_parameter_has_the_gradient_that_differences_give() -> Result<()> {
    // With g trained, and more local views than the preset may have.
    let mut config = tiny()?.method;
    (config.head.norm_last_layer, config.local_crops) = (false, 2);
    let mut method = Dino::new(config, 5, &Device::Cpu)?;
    let places = [
        ("head.mlp.0.weight", 3),
        ("head.mlp.1.weight", 2),
        ("head.mlp.3.weight", 7),
        ("head.mlp.3.bias", 1),
        ("head.last_layer.weight_v", 5),
        ("head.last_layer.weight_g", 4),
    ];
    testing::assert_gradients(&mut method, &testing::batch(8, &[16, 16, 12, 12])?, &[], &places)
}

#[test]
fn the_transformers_gradients_are_those_of_differences() -> Result<()> {
    let mut config = tiny_vit()?.method;
    config.local_crops = 2;
    let mut method = Dino::new(config, 5, &Device::Cpu)?;
    // The transformer is smooth. Drop path draws the same in every call: it is the same step.
    let places = [
        ("backbone.cls_token", 3),
        ("backbone.pos_embed", 30),
        ("backbone.blocks.1.attn.qkv.weight", 40),
        ("head.mlp.0.weight", 9),
        ("head.last_layer.weight_v", 5),
    ];
    testing::assert_gradients(&mut method, &testing::batch(4, &[20, 20, 12, 12])?, &[], &places)
}

#[test]
fn ranks_do_not_change_a_step() -> Result<()> {
    let mut run = tiny()?;
    run.method.local_crops = 1;
    // Sharp distributions on so small a network make steps after which rounding shows.
    run.method.student_temperature = 1.0;
    run.method.teacher_temperature = TeacherTemperature::constant(0.4);
    testing::assert_ranks(&run, 8, &[16, 16, 12], &[2, 4])
}

#[test]
fn ranks_draw_the_same_paths() -> Result<()> {
    let mut run = tiny_vit()?;
    run.method.local_crops = 1;
    testing::assert_ranks(&run, 4, &[20, 20, 12], &[2])
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    testing::assert_resumes(tiny()?)
}

#[test]
fn resumed_transformers_end_in_the_same_bytes() -> Result<()> {
    testing::assert_resumes(tiny_vit()?)
}

#[test]
fn features_get_better() -> Result<()> {
    testing::assert_learns(&recipe::preset("smoke")?, 0.05)
}
