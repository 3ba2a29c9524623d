//! One step on scenes, as the training loop sees it.

use candle_core::{DType, Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::nn::{BACKBONE, BatchNormKind, Mode, ParamStore};
use contrastive_core::train::{Method, Progress, StepOutput};
use contrastive_core::{Error, Result};

use super::config::{Between, Task, ViewsConfig};
use super::model::{Decoder, Embedded, ViewNet};
use crate::config::Graph;
use crate::loss::{in_batch, local_global, pixel_cross_entropy, places, quantise, regression};
use crate::weights::HEAD;

/// One in so many rows and columns of patches is compared in a step.
const PLACES: usize = 2;

/// CMC on scenes of several views, and the predictive baseline with the same networks. It has no state beyond its
/// parameters.
pub struct ViewsCmc {
    config: ViewsConfig,
    params: ParamStore,
    views: Vec<ViewNet>,
    decoder: Option<Decoder>,
}

impl ViewsCmc {
    /// Fresh parameters drawn from `seed`: `backbone.<view>.*`, `head.<view>.*` where views are contrasted, `decoder.*`
    /// where one is predicted. The first view's encoder begins the same for every task and number of views.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: ViewsConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let params = ParamStore::new(seed, device);
        let b = params.builder();
        let kind = if config.sync_batch_norm { BatchNormKind::Sync } else { BatchNormKind::Local };
        let size = [config.width, config.output];
        // A prediction's target needs no encoder.
        let encoded = if config.decoded().is_some() { 1 } else { config.views.len() };
        // A view alone is compared with its own places.
        let windows = matches!(config.task, Task::Contrast { between: Between::Windows, .. });
        let places = !windows || config.views.len() == 1;
        let mut views = Vec::with_capacity(encoded);
        for view in &config.views[..encoded] {
            let builders = [&b.pp(BACKBONE).pp(&view.name), &b.pp(HEAD).pp(&view.name)];
            views.push(ViewNet::new(builders, view.channels, size, places, kind)?);
        }
        let decoder = |outputs| Decoder::new(&b.pp("decoder"), views[0].stages.widths(), outputs, kind);
        let decoder = config.decoded().map(decoder).transpose()?;
        Ok(Self { config, params, views, decoder })
    }

    /// The settings.
    pub fn config(&self) -> &ViewsConfig {
        &self.config
    }

    /// The networks of the views, in their order: of all where views are contrasted, of the first otherwise.
    pub fn nets(&self) -> &[ViewNet] {
        &self.views
    }

    /// The decoder, where a view or labels are predicted.
    pub fn decoder(&self) -> Option<&Decoder> {
        self.decoder.as_ref()
    }

    fn contrast(
        &self,
        views: &[Embedded],
        task: (f64, Graph, Between),
        comm: &Comm,
        progress: &Progress,
    ) -> Result<(Tensor, f64)> {
        let (temperature, graph, between) = task;
        let pairs = graph.pairs(views.len());
        let mut terms = Vec::new();
        // A view alone is compared with itself.
        if pairs.is_empty() {
            terms.push(local_global(&views[0].global, views[0].places()?, temperature, comm)?);
        }
        for (i, j) in pairs {
            let (a, b) = (&views[i], &views[j]);
            match between {
                Between::PatchesAndWindows => {
                    terms.push(local_global(&a.global, b.places()?, temperature, comm)?);
                    terms.push(local_global(&b.global, a.places()?, temperature, comm)?);
                }
                Between::Alike => {
                    // All places have their turn.
                    let turn = progress.step as usize;
                    let corner = [turn % PLACES, turn / PLACES % PLACES];
                    terms.push(places(a.places()?, b.places()?, (PLACES, corner), temperature, comm)?);
                    terms.push(in_batch(&a.global, &b.global, temperature, comm)?);
                }
                Between::Windows => terms.push(in_batch(&a.global, &b.global, temperature, comm)?),
            }
        }
        let (mut losses, mut accuracy) = (Vec::with_capacity(terms.len()), 0.0);
        for term in &terms {
            losses.push(term.loss.clone());
            accuracy += f64::from(term.accuracy.to_scalar::<f32>()?) / terms.len() as f64;
        }
        Ok((Tensor::stack(&losses, 0)?.sum_all()?, accuracy))
    }

    /// The loss of a prediction.
    fn predict(&self, decoded: &Tensor, target: &Tensor) -> Result<Tensor> {
        match self.config.task {
            Task::Predict { distance } => regression(decoded, target, distance),
            Task::PredictCells { cells } => pixel_cross_entropy(decoded, &quantise(target, cells)?),
            _ => {
                let labels = target.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                let labels: Vec<u32> = labels.into_iter().map(|label| label as u32).collect();
                pixel_cross_entropy(decoded, &labels)
            }
        }
    }
}

impl Method for ViewsCmc {
    fn name(&self) -> &str {
        "cmc-views"
    }

    /// One for each view, and one more for labels.
    fn views(&self) -> usize {
        self.config.views.len() + usize::from(matches!(self.config.task, Task::Label { .. }))
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, progress: &Progress) -> Result<StepOutput> {
        if batch.views.len() != self.views() {
            return Err(Error::shape("cmc", format!("{} views", self.views()), &[batch.views.len()]));
        }
        let mode = Mode::train(comm);
        if let (Task::Contrast { temperature, graph, between }, None) = (self.config.task, &self.decoder) {
            let (mut embedded, mut pooled) = (Vec::new(), Vec::new());
            for (net, x) in self.views.iter().zip(&batch.views) {
                let (own, features) = net.embed(x, &mode)?;
                embedded.push(own);
                pooled.push(features.detach());
            }
            let (loss, accuracy) = self.contrast(&embedded, (temperature, graph, between), comm, progress)?;
            return Ok(StepOutput {
                terms: vec![("contrastive_accuracy".into(), accuracy)],
                features: Some(pooled.remove(0)),
                ..StepOutput::new(loss, embedded.iter().map(|view| view.global.detach()).collect())
            });
        }
        let Some(decoder) = &self.decoder else {
            return Err(Error::config("method.task", "a prediction without a decoder"));
        };
        let maps = self.views[0].stages.maps(&batch.views[0], &mode)?;
        let loss = self.predict(&decoder.forward(&maps, &mode)?, &batch.views[1])?;
        let pooled = contrastive_core::kernels::global_avg_pool(&maps[3])?.detach();
        Ok(StepOutput { features: Some(pooled.clone()), ..StepOutput::new(loss, vec![pooled]) })
    }

    /// The first view's pooled features, `[N, 8 width]`.
    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.views[0].stages.pooled(x, &Mode::eval())
    }
}
