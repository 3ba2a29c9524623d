//! One step of CPC on images, as the training loop sees it.

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mode, Module, ParamStore, PatchCrops};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use super::config::ImagesConfig;
use super::model::{Grids, ImagesModel};
use super::task::contrast_rows;
use crate::objective::{Contrast, StepScores};

/// CPC on grids of patches. It has no state beyond its parameters.
pub struct ImagesCpc {
    config: ImagesConfig,
    params: ParamStore,
    model: ImagesModel,
}

impl ImagesCpc {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: ImagesConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let model = ImagesModel::new(&params.builder(), &config)?;
        Ok(Self { config, params, model })
    }

    /// The networks.
    pub fn model(&self) -> &ImagesModel {
        &self.model
    }

    /// The settings.
    pub fn config(&self) -> &ImagesConfig {
        &self.config
    }

    /// The random crops of the patches of `names`, one stream for each sample; none where whole patches are seen.
    ///
    /// # Errors
    /// Images that hold no patch.
    pub fn crops(&self, [h, w]: [usize; 2], names: &[u64], key: Key) -> Result<Option<PatchCrops>> {
        let [rows, columns] = self.config.encoder.grid(h, w)?;
        Ok(self.config.patch_crop.map(|side| {
            let room = (self.config.encoder.patch - side + 1) as u64;
            let corners = names.iter().flat_map(|&name| {
                let mut stream = key.sample(name).stream();
                (0..rows * columns)
                    .map(move |_| [stream.below(room) as usize, stream.below(room) as usize])
                    .collect::<Vec<_>>()
            });
            PatchCrops { side, corners: corners.collect() }
        }))
    }

    /// The task on a batch of images `[N, C, H, W]` in optimiser step `step` of a run with this seed.
    ///
    /// # Errors
    /// As [`contrast_rows`].
    pub fn contrast(&self, batch: &Batch, [seed, step]: [u64; 2], mode: &Mode) -> Result<(Contrast, Grids)> {
        let [x] = batch.views.as_slice() else {
            return Err(Error::shape("cpc-images", "1 view", &[batch.views.len()]));
        };
        let (_, _, h, w) = x.dims4()?;
        let crops = if mode.train {
            self.crops([h, w], &batch.indices, Key::new(seed, Purpose::Layer).epoch(step))?
        } else {
            None
        };
        let grids = self.model.grids(x, crops.as_ref(), mode)?;
        let key = Key::new(seed, Purpose::Negatives).epoch(step);
        let predictor = &self.model.predictor;
        let contrast = contrast_rows(&self.config.objective, predictor, &grids, &batch.indices, key, mode)?;
        Ok((contrast, grids))
    }
}

impl Method for ImagesCpc {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        self.config.views()
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let (contrast, grids) = self.contrast(batch, [progress.seed, progress.step], &Mode::train(comm))?;
        let features = grids.vectors.detach().flatten(1, 2)?.mean(1)?;
        let steps = contrast.steps.len() as f64;
        let mean = |f: fn(&StepScores) -> f64| contrast.steps.iter().map(f).sum::<f64>() / steps;
        let mut terms =
            vec![("accuracy".to_string(), mean(|s| s.accuracy)), ("above".to_string(), mean(|s| s.above))];
        for (i, step) in contrast.steps.iter().enumerate() {
            terms.push((format!("step{}/loss", i + 1), step.loss));
            terms.push((format!("step{}/accuracy", i + 1), step.accuracy));
            terms.push((format!("step{}/above", i + 1), step.above));
        }
        Ok(StepOutput {
            terms,
            features: Some(features.clone()),
            ..StepOutput::new(contrast.loss, vec![features])
        })
    }

    /// The mean of the vectors of an image's patches: `[N, C, H, W]` to `[N, D]`.
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.model.encoder.forward(x, &Mode::eval())
    }
}
