//! NCE against the softmax by the number of negatives (the paper's figure on ImageNet-100), on the embedded digits.

use anyhow::{Context, Result};
use candle_core::Device;
use contrastive_cmc::{CmcConfig, Form, recipe};
use contrastive_core::data::{Source, Split, embedded};
use contrastive_core::eval::{Protocol, metric};
use contrastive_core::experiment::{RunConfig, features, fit};

use super::epochs;
use crate::cpc::{About, Measured, Session};

/// Rows of a bank beside a sample's own.
const NEGATIVES: [usize; 3] = [16, 128, 1024];

/// Both forms with each number of negatives, and the batch's own negatives beside them.
pub fn by_number(session: &Session) -> Result<()> {
    for seed in session.seeds(&[0]) {
        for negatives in NEGATIVES {
            one(session, &format!("nce, {negatives} negatives"), Form::Nce { negatives }, seed)?;
            one(session, &format!("softmax, {negatives} negatives"), Form::Softmax { negatives }, seed)?;
        }
        one(session, "in-batch", Form::InBatch {}, seed)?;
    }
    Ok(())
}

fn one(session: &Session, name: &str, form: Form, seed: u64) -> Result<()> {
    let mut base = recipe::preset("smoke")?;
    base.method.contrast.form = form;
    // A quarter of the preset's epochs: seven runs in the time of two.
    let run: RunConfig<CmcConfig> =
        session.configured(&base, epochs(session, base.train.epochs / 4), seed)?;
    let (train, test) = (embedded::sign_digits(Split::Train)?, embedded::sign_digits(Split::Test)?);
    let dir = format!("cmc-{}", name.replace([',', ' '], "-"));
    let source = train.clone();
    let (method, seconds) = session.train(&dir, seed, |options| fit(&run, source.clone(), options))?;
    let about = About {
        method: name.to_string(),
        recipe: "smoke".into(),
        dataset: test.name().to_string(),
        data_hash: test.fingerprint().chars().take(16).collect(),
        config_hash: run.hash()?,
        seed,
        seconds,
    };
    let of = |source| -> Result<_> {
        let encode = |x: &candle_core::Tensor| method.features(x);
        Ok(features(encode, source, &run.eval, &Device::Cpu, session.workers)?.0)
    };
    let (train, test) = (of(train)?, of(test)?);
    for protocol in [Protocol::KnnK20T007V1, Protocol::LinearLbfgsV1] {
        let top1 = metric(&protocol.evaluate(&train, &test)?, "top1").context("top1")?;
        session.record(&about, &[Measured::accuracy(protocol.name(), top1)])?;
    }
    Ok(())
}
