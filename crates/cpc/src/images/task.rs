//! The pretext task over a batch of grids: from contexts and vectors to the loss.

use candle_core::{DType, Tensor};
use contrastive_core::dist::all_gather_with_grad;
use contrastive_core::nn::Mode;
use contrastive_core::rng::Key;
use contrastive_core::{Error, Result};

use super::config::RowsConfig;
use super::model::Grids;
use crate::loss::{gathered, info_nce, logits};
use crate::negatives::{Anchor, Candidates, Frames};
use crate::objective::{Contrast, Product, StepScores};
use crate::predictor::Predictor;

/// Predicts all steps of a batch: the context at row r and some column has its target at row `r + skip + k` of the same
/// column, for every r that has one. Candidates are the vectors of all ranks; the loss is the mean over this rank's
/// predictions, and over steps. `names` are the samples, whose draws they name; `key` names the run and the optimiser step.
///
/// # Errors
/// Shapes that do not fit, a grid with too few rows, a batch without negatives.
pub fn contrast_rows(
    config: &RowsConfig,
    predictor: &Predictor,
    grids: &Grids,
    names: &[u64],
    key: Key,
    mode: &Mode,
) -> Result<Contrast> {
    let Grids { vectors, contexts } = grids;
    let (&[n, rows, columns, d], &[cn, crows, ccolumns, h]) = (vectors.dims(), contexts.dims()) else {
        return Err(Error::shape("CPC rows", "vectors and contexts [N, rows, cols, D]", vectors.dims()));
    };
    if [cn, crows, ccolumns] != [n, rows, columns] || names.len() != n {
        let expected = format!("[{n}, {rows}, {columns}, D] of {n} named samples");
        return Err(Error::shape("CPC contexts", expected, contexts.dims()));
    }
    let last = config.skip + config.steps;
    if config.steps == 0 || last >= rows {
        let reason = format!("the last step predicts {last} rows below, grids have {rows} rows");
        return Err(Error::config("method.objective.steps", reason));
    }
    let places = rows * columns;
    let own = vectors.reshape((n * places, d))?;
    let targets = all_gather_with_grad(&own, &mode.comm)?.contiguous()?;
    let contexts = contexts.reshape((n * places, h))?;
    // Samples of other ranks only take part as candidates: nothing is drawn under their names.
    let first = mode.comm.rank() * n;
    let mut all = vec![0u64; mode.comm.size() * n];
    all[first..first + n].copy_from_slice(names);
    let frames = Frames { length: places, names: &all, groups: None };
    let negatives = config.negatives.over_sequences();

    let mut total: Option<Tensor> = None;
    let mut steps = Vec::with_capacity(config.steps);
    for k in 1..=config.steps {
        let below = config.skip + k;
        let within = (rows - below) * columns;
        let at = |sample: usize| (0..within).map(move |place| (sample, place));
        let from: Vec<(usize, usize)> = (0..n).flat_map(at).collect();
        let anchors: Vec<Anchor> =
            from.iter().map(|&(sample, time)| Anchor { sequence: first + sample, time }).collect();
        let index: Vec<u32> = from.iter().map(|&(sample, place)| (sample * places + place) as u32).collect();
        let index = Tensor::from_vec(index, from.len(), contexts.device())?;
        let predictions = predictor.predict(k, &contexts.index_select(&index, 0)?, mode)?;
        let scale = |x: Tensor| match config.product {
            Product::Sum => Ok(x),
            Product::Mean => x * (1.0 / d as f64),
        };
        let scores = match Candidates::new(&negatives, &frames, &anchors, below * columns, key)? {
            Candidates::Pool { positive, excluded } => {
                info_nce(&scale(logits(&predictions, &targets)?)?, &positive, excluded.as_deref())?
            }
            Candidates::Drawn { index, .. } => {
                info_nce(&scale(gathered(&predictions, &targets, &index)?)?, &vec![0; anchors.len()], None)?
            }
        };
        steps.push(StepScores {
            loss: f64::from(scores.loss.to_dtype(DType::F32)?.to_scalar::<f32>()?),
            accuracy: scores.accuracy,
            above: scores.above,
            predictions: anchors.len(),
        });
        total = Some(match total {
            None => scores.loss,
            Some(total) => (total + scores.loss)?,
        });
    }
    match total {
        Some(total) => Ok(Contrast { loss: (total * (1.0 / config.steps as f64))?, steps }),
        None => Err(Error::config("method.objective.steps", "must be at least 1")),
    }
}
