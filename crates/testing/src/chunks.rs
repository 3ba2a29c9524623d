//! A batch in chunks makes the step of the whole.

use anyhow::{Result, anyhow, ensure};
use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::single;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::optim::Gradients;
use contrastive_core::train::StepOutput;

use crate::{deep, progress, value};

/// How far chunks may be from the whole: a share of a gradient's largest element.
const SHARE: f32 = 1e-4;

/// Fails where the gradients are not of the same parameters, or further apart than rounding takes them.
pub fn assert_same_gradients(what: &str, own: &Gradients, expected: &Gradients) -> Result<()> {
    ensure!(own.iter().count() == expected.iter().count(), "{what}: gradients of other parameters");
    for (name, gradient) in expected.iter() {
        let found = own.get(name).ok_or_else(|| anyhow!("{what}: no gradient of {name}"))?;
        let most = |x: Tensor| -> Result<f32> { Ok(x.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?) };
        let (gap, scale) = (most((found - gradient)?)?, most(gradient.clone())?.max(1e-3));
        ensure!(gap < SHARE * scale, "{what}: {name} differs by {gap} of {scale}");
    }
    Ok(())
}

/// A first step with fresh parameters.
fn step<M: MethodConfig>(config: &M, batch: &Batch) -> Result<(StepOutput, Gradients)> {
    let mut method = config.build(1, &Device::Cpu)?;
    let mut out = method.step(batch, &single(), &progress(0))?;
    let gradients = out.take_gradients(method.params())?;
    Ok((out, gradients))
}

/// `chunked` is `plain` with the batch in chunks, and its network treats each sample by itself: loss, gradients,
/// embeddings and features are those of the whole batch.
pub fn assert_chunks<M: MethodConfig>(plain: &M, chunked: &M, batch: &Batch) -> Result<()> {
    deep(|| {
        let (whole, expected) = step(plain, batch)?;
        let (out, own) = step(chunked, batch)?;
        compare(&out, &whole, value(&whole.loss)?)?;
        assert_same_gradients("chunks", &own, &expected)
    })
}

/// `chunked` is `plain` with the batch in chunks of `rows`, and its loss is the mean of samples' own: loss and gradients
/// are the mean of those of the chunks as batches.
pub fn assert_accumulates<M: MethodConfig>(plain: &M, chunked: &M, rows: usize, batch: &Batch) -> Result<()> {
    deep(|| {
        let count = batch.len() / rows;
        let scale = 1.0 / count as f64;
        let (out, own) = step(chunked, batch)?;
        let (mut loss, mut expected) = (0.0, Gradients::from_named(Vec::new()));
        for c in 0..count {
            let part = |x: &Tensor| Ok(x.narrow(0, c * rows, rows)?.contiguous()?);
            let part = Batch {
                views: batch.views.iter().map(part).collect::<Result<_>>()?,
                indices: batch.indices[c * rows..(c + 1) * rows].to_vec(),
                labels: None,
            };
            let (one, gradients) = step(plain, &part)?;
            loss += value(&one.loss)? * scale;
            let scaled = gradients.iter().map(|(name, g)| Ok((name.to_string(), (g * scale)?)));
            expected = expected.plus(Gradients::from_named(scaled.collect::<Result<_>>()?))?;
        }
        let (whole, _) = step(plain, batch)?;
        ensure!((value(&out.loss)? - loss).abs() < 1e-5, "{} is not the chunks' {loss}", value(&out.loss)?);
        ensure!(out.embeddings.len() == whole.embeddings.len(), "{} views", out.embeddings.len());
        for (own, all) in
            out.embeddings.iter().chain(&out.features).zip(whole.embeddings.iter().chain(&whole.features))
        {
            ensure!(own.dims() == all.dims(), "{:?} of {:?}", own.dims(), all.dims());
        }
        assert_same_gradients("chunks", &own, &expected)
    })
}

fn compare(out: &StepOutput, whole: &StepOutput, loss: f64) -> Result<()> {
    let own = value(&out.loss)?;
    ensure!((own - loss).abs() < 1e-5 * loss.abs().max(1.0), "loss {own}, of the whole {loss}");
    for ((name, own), (_, term)) in out.terms.iter().zip(&whole.terms) {
        ensure!((own - term).abs() < 1e-5, "{name}: {own}, of the whole {term}");
    }
    let all = |out: &StepOutput| -> Vec<Tensor> {
        out.embeddings.iter().chain(&out.features).chain(&out.assignments).cloned().collect()
    };
    for (i, (own, whole)) in all(out).iter().zip(all(whole)).enumerate() {
        ensure!(own.dims() == whole.dims(), "tensor {i}: {:?} of {:?}", own.dims(), whole.dims());
        let gap = (own - whole)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        ensure!(gap < 1e-4, "tensor {i} differs by {gap}");
    }
    Ok(())
}
