//! A batch cut into chunks: what methods that take one a chunk at a time have in common.

use candle_core::Tensor;

use super::StepOutput;
use crate::data::Batch;
use crate::nn::ParamStore;
use crate::optim::Gradients;
use crate::{Error, Result};

/// A rank's batch in equal chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunks {
    count: usize,
    rows: usize,
}

impl Chunks {
    /// The chunks that `method.chunk` asks for in a batch of `samples`; none where the batch is one.
    ///
    /// # Errors
    /// A batch that does not divide evenly: chunks of other sizes would have another weight.
    pub fn of(chunk: Option<usize>, samples: usize) -> Result<Option<Self>> {
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

    /// Refuses a `chunk` that no batch has. `at` is where the method's settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key.
    pub fn check(chunk: Option<usize>, at: &str) -> Result<()> {
        match chunk {
            Some(0) => Err(Error::config(format!("{at}.chunk"), "must be at least 1")),
            _ => Ok(()),
        }
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// The samples of each.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// The rows of chunk `c` in `[N, ...]`.
    ///
    /// # Errors
    /// Fewer rows than the batch has.
    pub fn part(self, x: &Tensor, c: usize) -> Result<Tensor> {
        Ok(x.narrow(0, c * self.rows, self.rows)?)
    }

    /// View `v` of `views`, `[N, D]`, out of embeddings `[views · N, D]` that lie chunk by chunk and in each view below
    /// view.
    ///
    /// # Errors
    /// Another number of rows.
    pub fn view(self, all: &Tensor, v: usize, views: usize) -> Result<Tensor> {
        let all = all.reshape((self.count, views, self.rows, all.dim(1)?))?;
        Ok(all.narrow(1, v, 1)?.contiguous()?.flatten_to(2)?)
    }

    /// A step of a loss that is the mean of samples' own losses: `step` of every chunk, and the means of losses, terms and
    /// gradients. One chunk's graph exists at a time. Batch statistics are a chunk's.
    ///
    /// # Errors
    /// Those of `step`.
    pub fn accumulate(
        self,
        params: &ParamStore,
        batch: &Batch,
        mut step: impl FnMut(&Batch) -> Result<StepOutput>,
    ) -> Result<(StepOutput, Gradients)> {
        let scale = 1.0 / self.count as f64;
        let mut gradients = Gradients::from_named(Vec::new());
        let mut outputs = Vec::with_capacity(self.count);
        for c in 0..self.count {
            let rows = c * self.rows..(c + 1) * self.rows;
            let part = Batch {
                views: batch.views.iter().map(|x| self.part(x, c)).collect::<Result<_>>()?,
                indices: batch.indices[rows.clone()].to_vec(),
                labels: batch.labels.as_ref().map(|labels| labels[rows].to_vec()),
            };
            let mut output = step(&part)?;
            let loss = (&output.loss * scale)?;
            gradients = gradients.plus(Gradients::of(params, &loss)?)?;
            output.loss = loss.detach();
            outputs.push(output);
        }
        Ok((joined(outputs, scale)?, gradients))
    }
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
    Ok(StepOutput {
        loss: rest.iter().try_fold(first.loss.clone(), |sum, o| sum + &o.loss)?,
        terms: first.terms.iter().enumerate().map(|(t, (name, _))| (name.clone(), term(t))).collect(),
        embeddings: views
            .map(|v| join(outputs.iter().map(|o| &o.embeddings[v]).collect()))
            .collect::<Result<_>>()?,
        assignments: optional(|o| o.assignments.as_ref())?,
        features: optional(|o| o.features.as_ref())?,
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
        let zero = Chunks::check(Some(0), "method").map_or_else(|e| e.to_string(), |()| String::new());
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
            let view = chunks.view(&all, v, 2)?.to_vec2::<f64>()?;
            assert_eq!(view, (0..4).map(|n| vec![f64::from(n), v as f64]).collect::<Vec<_>>());
        }
        Ok(())
    }
}
