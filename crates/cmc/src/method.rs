//! One step of CMC, as the training loop sees it.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::nn::{Mode, Module, ParamStore};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use crate::config::CmcConfig;
use crate::contrast::Contrast;
use crate::model::CmcModel;
use crate::weights::SIDES;

/// CMC on the two sides of a colour split.
pub struct Cmc {
    config: CmcConfig,
    params: ParamStore,
    model: CmcModel,
    contrast: Contrast,
}

impl Cmc {
    /// Fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: CmcConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let model = CmcModel::new(&params.builder(), &config)?;
        let contrast = Contrast::new(config.contrast, &SIDES, config.output, seed)?;
        Ok(Self { config, params, model, contrast })
    }

    /// The networks.
    pub fn model(&self) -> &CmcModel {
        &self.model
    }

    /// The objective and its banks.
    pub fn contrast(&self) -> &Contrast {
        &self.contrast
    }
}

impl Method for Cmc {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        self.config.views()
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn prepare(&mut self, samples: u64) -> Result<()> {
        self.contrast.prepare(samples, &self.params.device())
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        let [x] = batch.views.as_slice() else {
            return Err(Error::shape("cmc", "1 view", &[batch.views.len()]));
        };
        let mode = Mode::train(comm);
        let features = self.model.backbone.views(x, &mode)?;
        let views = self.model.embed(&features, &mode)?;
        let compared = self.contrast.compare(&views, &batch.indices, comm, progress)?;
        self.contrast.remember(&compared, &views, &batch.indices, comm)?;
        Ok(StepOutput {
            terms: vec![("contrastive_accuracy".into(), compared.accuracy)],
            features: Some(Tensor::cat(&features, 1)?.detach()),
            ..StepOutput::new(compared.loss, views.iter().map(Tensor::detach).collect())
        })
    }

    fn after_update(&mut self, _progress: &Progress) -> Result<()> {
        self.contrast.update()
    }

    /// The features of both sides next to each other.
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.model.backbone.forward(x, &Mode::eval())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.contrast.state()
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        self.contrast.load_state(state)
    }
}
