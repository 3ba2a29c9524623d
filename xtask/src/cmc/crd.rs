//! Contrastive representation distillation: a narrow student alone, and taught in three ways by one teacher.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Device;
use contrastive_cmc::crd::config::{preset, teacher};
use contrastive_cmc::crd::{Classifier, Crd, CrdConfig, Terms};
use contrastive_core::data::{InMemory, Source, Split, embedded};
use contrastive_core::eval::Outcome;
use contrastive_core::experiment::{RunConfig, features, loader, train};
use contrastive_core::train::Method;

use super::epochs;
use crate::cpc::{About, Measured, Session};

/// The name of the protocol in tables: the class with the highest logit.
const PROTOCOL: &str = "classifier-v1";

/// The students, by what they are taught.
const STUDENTS: [(&str, Terms); 4] = [
    ("student", Terms::LABELS),
    ("student, KD", Terms::LOGITS),
    ("student, CRD", Terms::CONTRAST),
    ("student, CRD+KD", Terms::BOTH),
];

/// One teacher, and each student, for every seed.
pub fn pairs(session: &Session) -> Result<()> {
    for seed in session.seeds(&[0]) {
        let base = preset("smoke")?;
        let mut taught = base.clone();
        (taught.method.backbone, taught.method.terms) = (teacher("smoke")?, Terms::LABELS);
        // Wide enough to be done in a quarter of a student's epochs.
        taught.train.epochs = (base.train.epochs / 4).max(1);
        let taught = one(session, "teacher", &taught, None, seed)?;
        for (name, terms) in STUDENTS {
            let mut run = base.clone();
            run.method.terms = terms;
            one(session, name, &run, Some(taught.clone()), seed)?;
        }
    }
    Ok(())
}

/// Trains and measures one network.
fn one(
    session: &Session,
    name: &str,
    base: &RunConfig<CrdConfig>,
    teacher: Option<Arc<Classifier>>,
    seed: u64,
) -> Result<Arc<Classifier>> {
    let run: RunConfig<CrdConfig> = session.configured(base, epochs(session, base.train.epochs), seed)?;
    let source = embedded::sign_digits(Split::Train)?;
    let labels = source.labels().context("labels")?.to_vec();
    let dir = format!("cmc-crd-{}", name.replace([',', ' ', '+'], "-"));
    let (method, seconds) = session.train(&dir, seed, |options| {
        let batches = loader(&run, source.clone(), options.workers, &options.comm)?;
        let mut method = Crd::new(run.method.clone(), teacher.clone(), &labels, seed, &Device::Cpu)?;
        let outcome = train(&run, &mut method, &batches, options)?;
        Ok((method, outcome))
    })?;
    let test = embedded::sign_digits(Split::Test)?;
    let about = About {
        method: name.to_string(),
        recipe: "crd-smoke".into(),
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

fn accuracy(method: &Crd, source: InMemory, run: &RunConfig<CrdConfig>, workers: usize) -> Result<f64> {
    let (logits, _) = features(|x| method.features(x), source, &run.eval, &Device::Cpu, workers)?;
    let right = |(row, label): (usize, &u32)| Outcome::from_scores(logits.row(row), *label).rank == 0;
    let hits = logits.labels.iter().enumerate().filter(|pair| right(*pair)).count();
    Ok(hits as f64 / logits.n.max(1) as f64)
}
