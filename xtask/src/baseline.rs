//! What a self-supervised number is held against: pixels, a network with random weights, supervised training.

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::MethodConfig;
use contrastive_core::loss::cross_entropy;
use contrastive_core::nn::{BACKBONE, Backbone, BackboneConfig, Encoder, Linear, Mode, Module, ParamStore};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// The same backbone trained with labels: the upper bound of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisedConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// The number of classes.
    pub classes: usize,
}

impl MethodConfig for SupervisedConfig {
    fn name(&self) -> &'static str {
        "supervised"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.backbone.check(&format!("{at}.backbone"))?;
        if self.classes < 2 {
            return Err(Error::config(format!("{at}.classes"), "must be at least 2"));
        }
        Ok(())
    }

    fn views(&self) -> usize {
        1
    }

    fn backbone(&self) -> BackboneConfig {
        self.backbone
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        let params = ParamStore::new(seed, device);
        let backbone = Backbone::new(&params.builder().pp(BACKBONE), &self.backbone)?;
        let classifier =
            Linear::torch_default(&params.builder().pp("classifier"), backbone.width(), self.classes)?;
        Ok(Box::new(Supervised { params, backbone, classifier }))
    }
}

struct Supervised {
    params: ParamStore,
    backbone: Backbone,
    classifier: Linear,
}

impl Method for Supervised {
    fn name(&self) -> &str {
        "supervised"
    }

    fn views(&self) -> usize {
        1
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, _progress: &Progress) -> Result<StepOutput> {
        let labels = batch
            .labels
            .as_deref()
            .ok_or_else(|| Error::data("supervised training", "the data set has no labels"))?;
        let mode = Mode::train(comm);
        let h = self.backbone.forward(&batch.views[0], &mode)?;
        let loss = cross_entropy(&self.classifier.forward(&h, &mode)?, labels)?;
        Ok(StepOutput::new(loss, vec![h.detach()]))
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.backbone.forward(x, &Mode::eval())
    }
}
