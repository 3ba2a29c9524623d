//! A few epochs on the embedded data beat the random network they began with.

mod common;

use anyhow::Result;
use contrastive_core::data::{Split, Subset, embedded};
use contrastive_core::eval::Protocol;
use contrastive_core::experiment::{MethodConfig, RunOptions, features, fit};
use contrastive_core::nn::ResNetConfig;
use contrastive_core::train::Method;

fn knn(method: &dyn Method, eval: &contrastive_core::augment::EvalTransform) -> Result<f64> {
    let of = |split| -> Result<_> {
        let source = embedded::sign_digits(split)?;
        Ok(features(|x| method.features(x), source, eval, &candle_core::Device::Cpu, 1)?.0)
    };
    let metrics = Protocol::KnnK20T007V1.evaluate(&of(Split::Train)?, &of(Split::Test)?)?;
    Ok(metrics.iter().find(|m| m.name == "top1").map_or(0.0, |m| m.value))
}

#[test]
fn features_get_better() -> Result<()> {
    let mut run = common::tiny()?;
    run.method.backbone = ResNetConfig { base_width: 8, ..ResNetConfig::cifar(18) };
    run.train.epochs = 3;
    run.train.batch_size = 64;
    let random = knn(run.method.build(0, &candle_core::Device::Cpu)?.as_ref(), &run.eval)?;
    let folder = tempfile::tempdir()?;
    let source = Subset::class_balanced(embedded::sign_digits(Split::Train)?, 100, 0)?;
    let (method, _) = fit(&run, source, RunOptions::new(folder.path().join("run")))?;
    let trained = knn(method.as_ref(), &run.eval)?;
    assert!(trained > random + 0.05, "random {random:.3}, trained {trained:.3}");
    Ok(())
}
