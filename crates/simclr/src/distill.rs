//! Distillation of a fine-tuned network into a student by unlabelled images (v2, section 2): to the same network
//! (self-distillation) or to a smaller one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use contrastive_core::data::Batch;
use contrastive_core::dist::Comm;
use contrastive_core::experiment::{MethodConfig, OptimConfig, RunConfig, unknown_preset};
use contrastive_core::loss::cross_entropy;
use contrastive_core::nn::{BackboneConfig, Mode, ParamStore};
use contrastive_core::optim::LrScaling;
use contrastive_core::train::{Method, Progress, StepOutput, TrainConfig};
use contrastive_core::weights::digest;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, ClassifierConfig, accuracy};
use crate::finetune::{crop_and_flip, imagenet_classifier, smoke_classifier, smoke_run};
use crate::loss::distillation_loss;
use crate::recipe;

/// Settings of [`Distill`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// What is trained.
    pub student: ClassifierConfig,
    /// What it learns from.
    pub teacher: ClassifierConfig,
    /// The teacher's weights: the last checkpoint of its fine-tuning, or of a distillation.
    pub teacher_checkpoint: PathBuf,
    /// T, above 0: 0.1 to the same network, 1 to a smaller one.
    pub temperature: f64,
    /// Whether the loss is multiplied by T², as in the official notebook but not in the paper.
    pub square_temperature: bool,
    /// α, in [0, 1]: `(1 − α) CE(labels) + α L`. At 1, as for the best results, labels are not looked at.
    pub alpha: f64,
}

impl MethodConfig for DistillConfig {
    fn name(&self) -> &'static str {
        "simclr-v2-distill"
    }

    fn check(&self, at: &str) -> Result<()> {
        self.student.check(&format!("{at}.student"))?;
        self.teacher.check(&format!("{at}.teacher"))?;
        if self.student.classes != self.teacher.classes {
            let reason =
                format!("must be the teacher's {}, got {}", self.teacher.classes, self.student.classes);
            return Err(Error::config(format!("{at}.student.classes"), reason));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let reason = format!("must be above 0 and finite, got {}", self.temperature);
            return Err(Error::config(format!("{at}.temperature"), reason));
        }
        if !(0.0..=1.0).contains(&self.alpha) {
            return Err(Error::config(
                format!("{at}.alpha"),
                format!("must be in [0, 1], got {}", self.alpha),
            ));
        }
        Ok(())
    }

    fn views(&self) -> usize {
        1
    }

    fn backbone(&self) -> BackboneConfig {
        self.student.backbone
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Box<dyn Method>> {
        if self.teacher_checkpoint.as_os_str().is_empty() {
            return Err(Error::config("method.teacher_checkpoint", "names no file"));
        }
        let teacher = Classifier::open(&self.teacher, &self.teacher_checkpoint, device)?;
        Ok(Box::new(Distill::new(self.clone(), teacher, seed, device)?))
    }
}

/// Distillation. The teacher is no parameter and no state: a resumed run is given it again, and checks that it is the
/// same.
pub struct Distill {
    config: DistillConfig,
    student: Classifier,
    teacher: Classifier,
    /// Of the teacher's tensors.
    digest: Tensor,
}

/// Where the teacher's digest stands in checkpoints.
const DIGEST: &str = "teacher_digest";

impl Distill {
    /// A student with fresh parameters drawn from `seed`.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn new(config: DistillConfig, teacher: Classifier, seed: u64, device: &Device) -> Result<Self> {
        config.check("method")?;
        let student = Classifier::new(&config.student, seed, device)?;
        let tensors = teacher.params().tensors();
        let hex = digest(tensors.iter().map(|(name, t)| (name.as_str(), t)))?;
        let digest = Tensor::from_vec(hex.into_bytes(), 64, &Device::Cpu)?;
        Ok(Self { config, student, teacher, digest })
    }

    /// The network that learns.
    pub fn student(&self) -> &Classifier {
        &self.student
    }
}

impl Method for Distill {
    fn name(&self) -> &str {
        self.config.name()
    }

    fn views(&self) -> usize {
        self.config.views()
    }

    fn params(&self) -> &ParamStore {
        self.student.params()
    }

    fn step(&mut self, batch: &Batch, comm: &Comm, _progress: &Progress) -> Result<StepOutput> {
        let [x] = batch.views.as_slice() else {
            return Err(Error::shape("distillation", "1 view", &[batch.views.len()]));
        };
        let DistillConfig { temperature, square_temperature, alpha, .. } = self.config;
        // Both see the same crop, the teacher in evaluation mode.
        let teacher = self.teacher.logits(x)?; // [N, classes]
        let out = self.student.classify(x, &Mode::train(comm))?;
        let guesses = teacher.argmax(1)?.to_vec1::<u32>()?;
        let mut terms = vec![("teacher_agreement".into(), accuracy(&out.logits, &guesses)?)];
        let mut loss = distillation_loss(&out.logits, &teacher, temperature)?;
        if square_temperature {
            loss = (loss * (temperature * temperature))?;
        }
        if alpha < 1.0 {
            let Some(labels) = batch.labels.as_deref() else {
                return Err(Error::data("distillation", "the data set has no labels: `alpha` must be 1"));
            };
            loss = ((loss * alpha)? + (cross_entropy(&out.logits, labels)? * (1.0 - alpha))?)?;
            terms.push(("accuracy".into(), accuracy(&out.logits, labels)?));
        }
        let features = out.features.detach();
        Ok(StepOutput { terms, features: Some(features.clone()), ..StepOutput::new(loss, vec![features]) })
    }

    fn features(&self, x: &Tensor) -> Result<Tensor> {
        self.student.features(x)
    }

    fn backbone(&self) -> Vec<(String, Tensor)> {
        self.student.backbone_tensors()
    }

    fn load_backbone(&mut self, tensors: &HashMap<String, Tensor>, source: &Path) -> Result<()> {
        self.student.load_backbone(tensors, source)
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(vec![(DIGEST.into(), self.digest.clone())])
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let Some(saved) = state.get(DIGEST) else {
            return Err(Error::data(DIGEST, "missing in the saved state"));
        };
        if saved.flatten_all()?.to_vec1::<u8>()? != self.digest.to_vec1::<u8>()? {
            return Err(Error::data(DIGEST, "the run was begun with another teacher"));
        }
        Ok(())
    }
}

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 3] = [
    ("imagenet-self", "v2: ResNet-50 to itself, temperature 0.1, pre-training's optimiser, 400 epochs"),
    ("imagenet-small", "v2: ResNet-152 (3×, selective kernels) to ResNet-50, temperature 1, 400 epochs"),
    ("smoke", "the embedded sign-language digits"),
];

/// The preset of this name; name the teacher in `method.teacher_checkpoint`.
///
/// # Errors
/// [`Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<RunConfig<DistillConfig>> {
    match name {
        "imagenet-self" => Ok(imagenet(imagenet_classifier(1), 0.1)),
        "imagenet-small" => {
            let backbone = recipe::selective_backbone(152, 3);
            Ok(imagenet(ClassifierConfig { backbone, ..imagenet_classifier(1) }, 1.0))
        }
        "smoke" => Ok(smoke()),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

fn distill(student: ClassifierConfig, teacher: ClassifierConfig, temperature: f64) -> DistillConfig {
    DistillConfig {
        student: ClassifierConfig { zero_init_logits: false, ..student },
        teacher,
        teacher_checkpoint: PathBuf::new(),
        temperature,
        square_temperature: false,
        alpha: 1.0,
    }
}

fn imagenet(teacher: ClassifierConfig, temperature: f64) -> RunConfig<DistillConfig> {
    RunConfig {
        method: distill(imagenet_classifier(1), teacher, temperature),
        train: TrainConfig { epochs: 400, batch_size: 4096, ..TrainConfig::default() },
        // Pre-training's, with 5 % of the steps for the warm-up.
        optim: OptimConfig { lr_scaling: LrScaling::Sqrt, ..recipe::lars(0.1, 1e-4, 20.0) },
        augment: crop_and_flip(224),
        eval: recipe::unit_range(256, 224),
    }
}

fn smoke() -> RunConfig<DistillConfig> {
    smoke_run(distill(smoke_classifier(), smoke_classifier(), 1.0))
}
