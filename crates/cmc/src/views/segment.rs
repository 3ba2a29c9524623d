//! What a frozen encoder says of every pixel: a linear classifier over the maps of all stages but the first, each enlarged
//! to the window ("hypercolumns", Hariharan et al. 2015).
//!
//! The paper freezes a U-Net's encoder and trains its decoder. A decoder of several layers learns much by itself, the more
//! so where labels are many; the linear one is convex, has no settings to tune and shows the features alone.

use candle_core::{Device, Tensor};
use contrastive_core::data::Source;
use contrastive_core::eval::{Features, LogisticConfig, Metric, Predictions, Standardizer, fit_logistic};
use contrastive_core::nn::Mode;
use contrastive_core::{Error, Result};

use super::model::{Decoder, Stages};
use super::scene::{Scenes, Window};

/// The name of the protocol in tables: hypercolumns of stages 2 to 4, standardised; one pixel in 16 of the training
/// windows and one in 4 of the test windows, all central; logistic regression with C = 1 and at most 60 iterations.
pub const PROTOCOL: &str = "pixels-linear-v1";

/// The name of the protocol that takes a trained decoder's own scores, on all pixels of central test windows.
pub const DECODED: &str = "pixels-decoded-v1";

/// Distance of the pixels that the classifier is trained on, and of those that it is tested on.
const STRIDES: [usize; 2] = [4, 2];

/// Scenes in a forward pass.
const BATCH: usize = 32;

/// Where labels come from and which view is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The scenes.
    pub scenes: &'a Scenes,
    /// The view's column.
    pub column: usize,
    /// Side of the central windows.
    pub window: usize,
}

impl Subject<'_> {
    /// Central windows `[n, C, side, side]` of some scenes, and their labels row by row.
    fn batches(&self) -> Result<Vec<(Tensor, Vec<u32>)>> {
        let window = Window { columns: vec![self.column], side: self.window, labels: true };
        let mut batches = Vec::new();
        for scenes in self.scenes.scenes().chunks(BATCH) {
            let (mut pixels, mut labels, mut shape) = (Vec::new(), Vec::new(), Vec::new());
            for scene in scenes {
                let size = &scene.views[self.column].shape;
                let middle = |length: usize| length.saturating_sub(self.window) / 2;
                let mut arrays = window.cut(scene, [middle(size[1]), middle(size[2])])?;
                if let (Some(classes), Some(view)) = (arrays.pop(), arrays.pop()) {
                    labels.extend(classes.data.into_iter().map(|label| label as u32));
                    shape = view.shape;
                    pixels.extend(view.data);
                }
            }
            let shape = [&[scenes.len()], shape.as_slice()].concat();
            batches.push((Tensor::from_vec(pixels, shape, &Device::Cpu)?, labels));
        }
        Ok(batches)
    }
}

/// The hypercolumns of every `stride`-th pixel of central windows with their labels.
///
/// # Errors
/// Scenes that are smaller than the window or have no labels.
pub fn hypercolumns(stages: &Stages, subject: Subject<'_>, stride: usize) -> Result<Features> {
    let side = subject.window;
    let (mut rows, mut classes) = (Vec::new(), Vec::new());
    let places: Vec<usize> = (0..side).skip(stride / 2).step_by(stride.max(1)).collect();
    let dim: usize = stages.widths()[1..].iter().sum();
    for (x, labels) in subject.batches()? {
        let maps = stages.maps(&x, &Mode::eval())?;
        let mut stages = Vec::new();
        for map in &maps[1..] {
            let map = map.tensor()?.permute((0, 2, 3, 1))?.contiguous()?; // [n, h, w, C]
            let (_, h, w, c) = map.dims4()?;
            stages.push((map.flatten_all()?.to_vec1::<f32>()?, [h, w, c]));
        }
        for n in 0..x.dim(0)? {
            for &row in &places {
                for &column in &places {
                    for (map, [h, w, c]) in &stages {
                        let at = ((n * h + row * h / side) * w + column * w / side) * c;
                        rows.extend_from_slice(&map[at..at + c]);
                    }
                    classes.push(labels[(n * side + row) * side + column]);
                }
            }
        }
    }
    Features::new(subject.scenes.name(), rows, dim, classes)
}

/// The linear protocol: fitted to one set of scenes, measured on another. `pixel-accuracy` and `miou` as fractions.
///
/// # Errors
/// As [`hypercolumns`].
pub fn evaluate(stages: &Stages, train: Subject<'_>, test: Subject<'_>) -> Result<Vec<Metric>> {
    let [coarse, fine] = STRIDES;
    let (train_rows, test_rows) = (hypercolumns(stages, train, coarse)?, hypercolumns(stages, test, fine)?);
    let standardizer = Standardizer::fit(&train_rows)?;
    let classes = train.scenes.pixel_classes();
    let config = LogisticConfig { max_iterations: 60, ..LogisticConfig::v1() };
    let fit = fit_logistic(&standardizer.apply(&train_rows)?, classes, &config, None)?;
    Ok(metrics(&fit.classifier().predict(&standardizer.apply(&test_rows)?)?))
}

/// A trained network's own scores for every pixel.
///
/// # Errors
/// Scenes that are smaller than the window or have no labels.
pub fn decoded(stages: &Stages, decoder: &Decoder, test: Subject<'_>) -> Result<Vec<Metric>> {
    let classes = test.scenes.pixel_classes();
    let (mut labels, mut outcomes) = (Vec::new(), Vec::new());
    for (x, own) in test.batches()? {
        let scores = decoder.forward(&stages.maps(&x, &Mode::eval())?, &Mode::eval())?;
        let scores = scores.permute((0, 2, 3, 1))?.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
        let width = scores.len() / own.len().max(1);
        if width != classes {
            return Err(Error::shape("segmentation", format!("{classes} scores a pixel"), &[width]));
        }
        let pairs = scores.chunks_exact(width).zip(&own);
        outcomes.extend(pairs.map(|(s, &label)| contrastive_core::eval::Outcome::from_scores(s, label)));
        labels.extend(own);
    }
    Ok(metrics(&Predictions::new(classes, &labels, outcomes)))
}

/// Pixel accuracy, and the mean over classes of the intersection of true and predicted pixels over their union; classes
/// that are neither there nor predicted do not count.
pub fn metrics(predictions: &Predictions) -> Vec<Metric> {
    let confusion = predictions.confusion();
    let classes = confusion.classes();
    let mut ratios = Vec::new();
    for class in 0..classes {
        let hits = confusion.row(class).get(class).copied().unwrap_or(0);
        let real: u64 = confusion.row(class).iter().sum();
        let predicted: u64 = (0..classes).filter_map(|other| confusion.row(other).get(class)).sum();
        let union = real + predicted - hits;
        if union > 0 {
            ratios.push(hits as f64 / union as f64);
        }
    }
    let miou = ratios.iter().sum::<f64>() / ratios.len().max(1) as f64;
    vec![Metric::fraction("pixel-accuracy", predictions.top(1)), Metric::fraction("miou", miou)]
}

#[cfg(test)]
mod tests {
    use contrastive_core::eval::Outcome;

    use super::*;

    #[test]
    fn unions_are_counted_once() {
        let outcome = |predicted: u32, label: u32| Outcome { predicted, rank: u32::from(predicted != label) };
        let labels = [0, 0, 0, 1, 1, 2];
        let predicted = [0, 0, 1, 1, 1, 0];
        let outcomes = predicted.iter().zip(&labels).map(|(&p, &l)| outcome(p, l)).collect();
        let metrics = metrics(&Predictions::new(4, &labels, outcomes));
        // 2/4, 2/3 and 0/1; the fourth class does not occur.
        assert!((metrics[0].value - 4.0 / 6.0).abs() < 1e-12);
        assert!((metrics[1].value - (0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
    }
}
