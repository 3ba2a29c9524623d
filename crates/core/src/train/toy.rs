//! A method, an optimiser and data that are small enough to train in milliseconds.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use candle_core::{Device, Tensor, Var};

use super::*;
use crate::data::{Batch, Batches};
use crate::dist::Comm;
use crate::nn::{Init, ParamStore};
use crate::optim::{Gradients, Optimizer};
use crate::rng::{Key, Purpose};
use crate::weights::{DataIdentity, MANIFEST_VERSION, Manifest};
use crate::{Error, Result};

pub const WIDTH: usize = 6;
pub const OUT: usize = 4;

/// Alignment of two views and decorrelation of the outputs of a linear encoder, with a momentum copy.
pub struct ToyMethod {
    params: ParamStore,
    weight: Tensor,
    target: Var,
    updates: u32,
}

impl ToyMethod {
    pub fn new(seed: u64) -> Result<Self> {
        let params = ParamStore::new(seed, &Device::Cpu);
        let weight = params.builder().param("encoder.weight", (OUT, WIDTH), Init::TorchDefault)?;
        params.builder().buffer("encoder.mean", OUT, 0.0)?;
        let target = Var::from_tensor(&weight.detach().copy()?)?;
        Ok(Self { params, weight, target, updates: 0 })
    }
}

impl Method for ToyMethod {
    fn name(&self) -> &str {
        "toy"
    }

    fn views(&self) -> usize {
        2
    }

    fn params(&self) -> &ParamStore {
        &self.params
    }

    fn step(&mut self, batch: &Batch, _comm: &Comm, _progress: &Progress) -> Result<StepOutput> {
        let a = batch.views[0].matmul(&self.weight.t()?)?;
        let b = batch.views[1].matmul(&self.target.as_detached_tensor().t()?)?;
        let alignment = (&a - &b)?.sqr()?.mean_all()?;
        let covariance = (a.t()?.matmul(&a)? / a.dim(0)? as f64)?;
        let identity = Tensor::eye(OUT, candle_core::DType::F32, a.device())?;
        let decorrelation = (covariance - identity)?.sqr()?.mean_all()?;
        if let Some(mean) = self.params.get("encoder.mean") {
            let new = ((mean.var.as_detached_tensor() * 0.9)? + (a.detach().mean(0)? * 0.1)?)?;
            mean.var.set(&new)?;
        }
        let value = f64::from(alignment.to_scalar::<f32>()?);
        Ok(StepOutput {
            terms: vec![("alignment".to_string(), value)],
            features: Some(a.detach()),
            ..StepOutput::new((alignment + decorrelation)?, vec![a.detach(), b.detach()])
        })
    }

    fn after_update(&mut self, _progress: &Progress) -> Result<()> {
        let new = ((self.target.as_detached_tensor() * 0.9)? + (self.weight.detach() * 0.1)?)?;
        self.target.set(&new)?;
        self.updates += 1;
        Ok(())
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.weight.detach().t()?)?)
    }

    fn backbone(&self) -> Vec<(String, Tensor)> {
        vec![("weight".to_string(), self.weight.detach())]
    }

    fn load_backbone(&mut self, tensors: &HashMap<String, Tensor>, source: &std::path::Path) -> Result<()> {
        self.params.load(tensors, source)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let updates = Tensor::new(self.updates, &Device::Cpu)?;
        Ok(vec![
            ("target.weight".to_string(), self.target.as_detached_tensor()),
            ("updates".to_string(), updates),
        ])
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let get =
            |name: &str| state.get(name).ok_or_else(|| Error::data("toy state", format!("no `{name}`")));
        self.target.set(get("target.weight")?)?;
        self.updates = get("updates")?.to_scalar()?;
        Ok(())
    }
}

/// SGD with momentum 0.9.
pub struct ToySgd {
    params: ParamStore,
    momentum: Vec<(String, Tensor)>,
}

impl ToySgd {
    pub fn new(params: &ParamStore) -> Result<Self> {
        let zeros = |e: crate::nn::Entry| Ok((format!("momentum/{}", e.name), e.var.zeros_like()?));
        let momentum = params.parameters().into_iter().map(zeros).collect::<Result<_>>()?;
        Ok(Self { params: params.clone(), momentum })
    }
}

impl Optimizer for ToySgd {
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        for (entry, (_, momentum)) in self.params.parameters().iter().zip(&mut self.momentum) {
            if let Some(gradient) = gradients.get(&entry.name) {
                *momentum = ((&*momentum * 0.9)? + gradient)?.detach();
                entry.var.set(&(entry.var.as_detached_tensor() - (&*momentum * lr)?)?)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(self.momentum.clone())
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        for (name, momentum) in &mut self.momentum {
            *momentum =
                state.get(name).ok_or_else(|| Error::data("toy SGD", format!("no `{name}`")))?.clone();
        }
        Ok(())
    }
}

/// Noise in two views.
pub struct ToyBatches {
    pub steps: u64,
    pub delay: Duration,
    /// From this step of the run on, one element is not a number.
    pub broken_from: u64,
    pub fingerprint: &'static str,
}

impl Default for ToyBatches {
    fn default() -> Self {
        Self { steps: 5, delay: Duration::ZERO, broken_from: u64::MAX, fingerprint: "f00d" }
    }
}

impl Batches for ToyBatches {
    fn samples(&self) -> u64 {
        8 * self.steps
    }

    fn steps_per_epoch(&self) -> u64 {
        self.steps
    }

    fn epoch(&self, epoch: u64, from_step: u64) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        Box::new((from_step..self.steps).map(move |step| {
            std::thread::sleep(self.delay);
            let mut stream = Key::new(3, Purpose::Data).epoch(epoch).sample(step).stream();
            let mut views = Vec::new();
            let base: Vec<f32> = (0..8 * WIDTH).map(|_| stream.normal() as f32).collect();
            for _ in 0..2 {
                let mut data: Vec<f32> = base.iter().map(|x| x + 0.1 * stream.normal() as f32).collect();
                if epoch * self.steps + step >= self.broken_from {
                    data[3] = f32::NAN;
                }
                views.push(Tensor::from_vec(data, (8, WIDTH), &Device::Cpu)?);
            }
            Ok(Batch { views, indices: (0..8).collect(), labels: None })
        }))
    }

    fn identity(&self) -> (String, String) {
        ("noise".to_string(), self.fingerprint.to_string())
    }
}

pub fn config() -> TrainConfig {
    TrainConfig {
        epochs: 4,
        batch_size: 8,
        checkpoint_every_steps: 3,
        keep_checkpoints: 3,
        log_every_steps: 1,
        ..TrainConfig::default()
    }
}

pub fn manifest() -> Manifest {
    Manifest {
        version: MANIFEST_VERSION,
        method: "toy".into(),
        branch: "online".into(),
        backbone: "linear".into(),
        preprocessing: "none".into(),
        data: DataIdentity { name: "noise".into(), fingerprint: "f00d".into() },
        licence: "CC0-1.0".into(),
        origin: None,
    }
}

pub fn lr(progress: &Progress) -> f64 {
    0.05 * (1.0 - progress.step as f64 / progress.total_steps as f64)
}

/// A new run in `folder`, or the one that is there.
pub fn open(folder: &Path, config: &TrainConfig) -> Result<RunDir> {
    let text = config::to_toml_string(config)?;
    if folder.join("config.toml").exists() {
        RunDir::resume(folder, &text)
    } else {
        RunDir::create(folder, &text)
    }
}

/// A whole run with a fresh method, which `with` may adjust.
pub fn train(
    run_dir: Option<RunDir>,
    config: &TrainConfig,
    batches: &ToyBatches,
    with: impl for<'a> FnOnce(Trainer<'a>) -> Trainer<'a>,
) -> Result<(ToyMethod, Outcome)> {
    let mut method = ToyMethod::new(config.seed)?;
    let mut optimizer = ToySgd::new(method.params())?;
    let mut trainer =
        Trainer::new(&mut method, &mut optimizer, batches, &lr, config.clone()).manifest(manifest());
    if let Some(run_dir) = run_dir {
        trainer = trainer.run_dir(run_dir);
    }
    let outcome = with(trainer).run()?;
    Ok((method, outcome))
}
