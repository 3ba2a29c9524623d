//! A few epochs on the embedded data beat the random network they began with.

use anyhow::Result;
use candle_core::Device;
use contrastive_core::augment::EvalTransform;
use contrastive_core::data::{Split, embedded};
use contrastive_core::eval::{Protocol, metric};
use contrastive_core::experiment::{MethodConfig, RunOptions, features, fit};
use contrastive_core::train::Method;
use contrastive_simclr::recipe;

fn knn(method: &dyn Method, eval: &EvalTransform) -> Result<f64> {
    let of = |split| -> Result<_> {
        let source = embedded::sign_digits(split)?;
        Ok(features(|x| method.features(x), source, eval, &Device::Cpu, 1)?.0)
    };
    let metrics = Protocol::KnnK20T007V1.evaluate(&of(Split::Train)?, &of(Split::Test)?)?;
    metric(&metrics, "top1").ok_or_else(|| anyhow::anyhow!("no top1"))
}

#[test]
fn features_get_better() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.train.epochs = 4;
    let random = knn(run.method.build(0, &Device::Cpu)?.as_ref(), &run.eval)?;
    let folder = tempfile::tempdir()?;
    let source = embedded::sign_digits(Split::Train)?;
    let (method, _) = fit(&run, source, RunOptions::new(folder.path().join("run")))?;
    let trained = knn(method.as_ref(), &run.eval)?;
    assert!(trained > random + 0.05, "random {random:.3}, trained {trained:.3}");
    Ok(())
}
