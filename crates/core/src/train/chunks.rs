//! A batch cut into chunks: what methods that take one a chunk at a time have in common.

use candle_core::Tensor;

use super::{StepOutput, grad_cache};
use crate::data::Batch;
use crate::dist::Comm;
use crate::nn::{Mode, ParamStore};
use crate::optim::Gradients;
use crate::{Error, Result};

/// Refuses a `chunk` that no batch has. `at` is where the method's settings stand in the whole configuration.
///
/// # Errors
/// [`Error::Config`] with the dotted key.
pub fn check_chunk(chunk: Option<usize>, at: &str) -> Result<()> {
    match chunk {
        Some(0) => Err(Error::config(format!("{at}.chunk"), "must be at least 1")),
        _ => Ok(()),
    }
}

/// A rank's batch in equal chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunks {
    count: usize,
    rows: usize,
}

impl Chunks {
    /// The chunks that `method.chunk` asks for in a batch of `samples`; none where the batch is one. Refuses a batch that
    /// does not divide evenly: chunks of other sizes would have another weight.
    fn of(chunk: Option<usize>, samples: usize) -> Result<Option<Self>> {
        match chunk {
            Some(rows) if rows < samples => {
                if rows == 0 || !samples.is_multiple_of(rows) {
                    let reason = format!("{samples} samples do not divide evenly into chunks of {rows}");
                    return Err(Error::config("method.chunk", reason));
                }
                Ok(Some(Self { count: samples / rows, rows }))
            }
            _ => Ok(None),
        }
    }

    /// The rows of chunk `c` in `[N, ...]`.
    fn part(self, x: &Tensor, c: usize) -> Result<Tensor> {
        Ok(x.narrow(0, c * self.rows, self.rows)?)
    }

    /// View `v` of two, `[N, D]`, out of embeddings `[2N, D]` that lie chunk by chunk and in each view below view.
    fn view(self, all: &Tensor, v: usize) -> Result<Tensor> {
        let all = all.reshape((self.count, 2, self.rows, all.dim(1)?))?;
        Ok(all.narrow(1, v, 1)?.contiguous()?.flatten_to(2)?)
    }

    /// Chunk `c` of `batch`.
    fn batch(self, batch: &Batch, c: usize) -> Result<Batch> {
        let rows = c * self.rows..(c + 1) * self.rows;
        Ok(Batch {
            views: batch.views.iter().map(|x| self.part(x, c)).collect::<Result<_>>()?,
            indices: batch.indices[rows.clone()].to_vec(),
            labels: batch.labels.as_ref().map(|labels| labels[rows].to_vec()),
        })
    }
}

/// A step of a loss that is the mean of samples' own losses: `step` of the batch at once, or of every chunk of `chunk`, and
/// the means of losses, terms and gradients. There one chunk's graph exists at a time and batch statistics are a chunk's.
///
/// # Errors
/// A batch that does not divide into such chunks, and those of `step`.
pub fn average_chunks(
    chunk: Option<usize>,
    params: &ParamStore,
    batch: &Batch,
    step: impl Fn(&Batch) -> Result<StepOutput>,
) -> Result<StepOutput> {
    let Some(chunks) = Chunks::of(chunk, batch.len())? else {
        return step(batch);
    };
    let scale = 1.0 / chunks.count as f64;
    let mut gradients = Gradients::from_named(Vec::new());
    let mut outputs = Vec::with_capacity(chunks.count);
    for c in 0..chunks.count {
        let mut output = step(&chunks.batch(batch, c)?)?;
        let loss = (&output.loss * scale)?;
        gradients = gradients.plus(Gradients::of(params, &loss)?)?;
        output.loss = loss.detach();
        outputs.push(output);
    }
    Ok(StepOutput { gradients: Some(gradients), ..joined(outputs, scale)? })
}

/// A step of a loss that sees the embeddings of the whole batch in two views `[N, ...]`: at once, or in chunks of `chunk`
/// by [`grad_cache`], where one chunk's graph exists at a time and batch statistics are a chunk's.
///
/// `encode` takes both views of some samples, `[n, ...]` each, to features `[2n, width]` and embeddings `[2n, D]`, the
/// first view's above the second's; `contrast` takes the embeddings of either view, `[N, D]`, to the step's output, to
/// which the first view's features are added here, and the gradients where they are made in chunks.
///
/// # Errors
/// A batch that does not divide into such chunks, and those of `encode` and `contrast`.
pub fn contrast_views(
    chunk: Option<usize>,
    params: &ParamStore,
    [x1, x2]: [&Tensor; 2],
    comm: &Comm,
    encode: impl Fn(&Tensor, &Tensor, &Mode) -> Result<(Tensor, Tensor)>,
    contrast: impl FnOnce(&Tensor, &Tensor) -> Result<StepOutput>,
) -> Result<StepOutput> {
    let mode = Mode::train(comm);
    let n = x1.dim(0)?;
    let Some(chunks) = Chunks::of(chunk, n)? else {
        let (h, z) = encode(x1, x2, &mode)?;
        let output = contrast(&z.narrow(0, 0, n)?, &z.narrow(0, n, n)?)?;
        return Ok(StepOutput { features: Some(h.narrow(0, 0, n)?.detach()), ..output });
    };
    let mut features = Vec::with_capacity(chunks.count);
    let (loss, output, gradients) = grad_cache(
        params,
        &mode,
        chunks.count,
        |c, mode| {
            let (h, z) = encode(&chunks.part(x1, c)?, &chunks.part(x2, c)?, mode)?;
            if !mode.grad {
                features.push(h.narrow(0, 0, chunks.rows)?.detach());
            }
            Ok(z)
        },
        |z| {
            let output = contrast(&chunks.view(z, 0)?, &chunks.view(z, 1)?)?;
            Ok((output.loss.clone(), output))
        },
    )?;
    Ok(StepOutput { loss, gradients: Some(gradients), features: Some(Tensor::cat(&features, 0)?), ..output })
}

/// Losses, already scaled, are added, terms averaged, and the samples' tensors joined in order.
fn joined(outputs: Vec<StepOutput>, scale: f64) -> Result<StepOutput> {
    let join = |parts: Vec<&Tensor>| -> Result<Tensor> { Ok(Tensor::cat(&parts, 0)?) };
    let optional = |of: fn(&StepOutput) -> Option<&Tensor>| -> Result<Option<Tensor>> {
        let parts: Option<Vec<&Tensor>> = outputs.iter().map(of).collect();
        parts.map(join).transpose()
    };
    let [first, rest @ ..] = outputs.as_slice() else {
        return Err(Error::shape("chunks", "at least one chunk", &[0]));
    };
    let views = 0..first.embeddings.len();
    let term = |t: usize| outputs.iter().map(|o| o.terms[t].1).sum::<f64>() * scale;
    let loss = rest.iter().try_fold(first.loss.clone(), |sum, o| sum + &o.loss)?;
    let embeddings =
        views.map(|v| join(outputs.iter().map(|o| &o.embeddings[v]).collect())).collect::<Result<_>>()?;
    Ok(StepOutput {
        terms: first.terms.iter().enumerate().map(|(t, (name, _))| (name.clone(), term(t))).collect(),
        assignments: optional(|o| o.assignments.as_ref())?,
        features: optional(|o| o.features.as_ref())?,
        ..StepOutput::new(loss, embeddings)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn only_even_chunks_smaller_than_the_batch_are_made() -> Result<()> {
        assert_eq!(Chunks::of(None, 8)?, None);
        assert_eq!(Chunks::of(Some(8), 8)?, None);
        assert_eq!(Chunks::of(Some(2), 8)?, Some(Chunks { count: 4, rows: 2 }));
        for chunk in [0, 3] {
            let refused = Chunks::of(Some(chunk), 8).map_or_else(|e| e.to_string(), |_| String::new());
            assert!(refused.contains("method.chunk") && refused.contains("8 samples"), "{refused}");
        }
        let zero = check_chunk(Some(0), "method").map_or_else(|e| e.to_string(), |()| String::new());
        assert!(zero.contains("method.chunk"), "{zero}");
        Ok(())
    }

    #[test]
    fn views_come_back_in_the_order_of_samples() -> Result<()> {
        let chunks = Chunks { count: 2, rows: 2 };
        // Sample and view of each row, chunk by chunk.
        let rows = [[0., 0.], [1., 0.], [0., 1.], [1., 1.], [2., 0.], [3., 0.], [2., 1.], [3., 1.]];
        let all = Tensor::new(&rows, &Device::Cpu)?;
        for v in 0..2 {
            let view = chunks.view(&all, v)?.to_vec2::<f64>()?;
            assert_eq!(view, (0..4).map(|n| vec![f64::from(n), v as f64]).collect::<Vec<_>>());
        }
        Ok(())
    }
}
