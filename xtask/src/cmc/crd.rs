//! Contrastive representation distillation: a narrow student alone, and taught in three ways by one teacher.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Device;
use contrastive_cmc::crd::config::{preset, teacher};
use contrastive_cmc::crd::{Classifier, Crd, CrdConfig, Terms};
use contrastive_core::data::Source;
use contrastive_core::eval::Outcome;
use contrastive_core::experiment::{RunConfig, features, loader, train};
use contrastive_core::train::Method;

use super::epochs;
use crate::cpc::{About, Measured, Session};
use crate::data::Images;
use crate::reproduce::Tier;

/// The name of the protocol in tables: the class with the highest logit.
const PROTOCOL: &str = "classifier-v1";

/// The students, by what they are taught.
const STUDENTS: [(&str, Terms); 4] = [
    ("student", Terms::LABELS),
    ("student, KD", Terms::LOGITS),
    ("student, CRD", Terms::CONTRAST),
    ("student, CRD+KD", Terms::BOTH),
];

/// What one session trains on.
struct Task<'s> {
    session: &'s Session,
    preset: &'static str,
    train: Images,
    /// Those of `train`.
    labels: Vec<u32>,
    test: Images,
}

/// One teacher, and each student, for every seed.
pub fn pairs(session: &Session) -> Result<()> {
    let tier = if session.small { Tier::Small } else { Tier::Smoke };
    let (train, test) = tier.images(tier.data())?;
    let labels: Option<Vec<u32>> = (0..train.len()).map(|i| train.label(i)).collect();
    let labels = labels.with_context(|| format!("{}: images without labels", train.name()))?;
    let task = Task { session, preset: tier.preset(super::GROUP)?, train, labels, test };
    for seed in session.seeds(&[0]) {
        let base = preset(task.preset)?;
        let mut taught = base.clone();
        (taught.method.backbone, taught.method.terms) = (teacher(task.preset)?, Terms::LABELS);
        // The digits' is done in a quarter of a student's epochs.
        if tier == Tier::Smoke {
            taught.train.epochs = (base.train.epochs / 4).max(1);
        }
        let taught = task.one("teacher", &taught, None, seed)?;
        for (name, terms) in STUDENTS {
            let mut run = base.clone();
            run.method.terms = terms;
            task.one(name, &run, Some(taught.clone()), seed)?;
        }
    }
    Ok(())
}

impl Task<'_> {
    /// Trains and measures one network.
    fn one(
        &self,
        name: &str,
        base: &RunConfig<CrdConfig>,
        teacher: Option<Arc<Classifier>>,
        seed: u64,
    ) -> Result<Arc<Classifier>> {
        let session = self.session;
        let run: RunConfig<CrdConfig> = session.configured(base, epochs(session, base.train.epochs), seed)?;
        let dir = format!("cmc-crd-{}", name.replace([',', ' ', '+'], "-"));
        let (method, seconds) = session.train(&dir, seed, |options| {
            let batches = loader(&run, self.train.clone(), options.workers, &options.comm)?;
            let mut method = Crd::new(run.method.clone(), teacher.clone(), &self.labels, seed, &Device::Cpu)?;
            let outcome = train(&run, &mut method, &batches, options)?;
            Ok((method, outcome))
        })?;
        let test = self.test.clone();
        let about = About {
            method: name.to_string(),
            recipe: format!("crd-{}", self.preset),
            dataset: test.name().to_string(),
            data_hash: test.fingerprint().chars().take(16).collect(),
            config_hash: run.hash()?,
            seed,
            seconds,
        };
        let top1 = accuracy(&method, test, &run, session.workers)?;
        session.record(&about, &[Measured::accuracy(PROTOCOL, top1)])?;
        Ok(method.student())
    }
}

fn accuracy(method: &Crd, source: Images, run: &RunConfig<CrdConfig>, workers: usize) -> Result<f64> {
    let (logits, _) = features(|x| method.features(x), source, &run.eval, &Device::Cpu, workers)?;
    let right = |(row, label): (usize, &u32)| Outcome::from_scores(logits.row(row), *label).rank == 0;
    let hits = logits.labels.iter().enumerate().filter(|pair| right(*pair)).count();
    Ok(hits as f64 / logits.n.max(1) as f64)
}
