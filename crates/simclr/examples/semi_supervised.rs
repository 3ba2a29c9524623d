//! SimCLR v2's three steps on the embedded sign-language digits, with ten labels of every class:
//! `cargo run --features data --example semi_supervised -- RUNS`. Minutes on two cores.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use contrastive_core::data::{Source, Split, Subset, Unlabelled, embedded};
use contrastive_core::eval::metric;
use contrastive_core::experiment::{MethodConfig, RunConfig, RunOptions, features, fit};
use contrastive_core::train::CheckpointFolder;
use contrastive_simclr::{Classifier, ClassifierConfig, classifier, distill, finetune, recipe};

const LABELS_PER_CLASS: usize = 10;

/// Trains and gives the last checkpoint.
fn train<M, S>(run: &RunConfig<M>, source: S, dir: &Path) -> Result<PathBuf>
where
    M: MethodConfig,
    S: Source<Sample = contrastive_core::augment::Image> + 'static,
{
    fit(run, source, RunOptions::new(dir))?;
    let mut all = CheckpointFolder::new(&dir.join("checkpoints")).list()?;
    Ok(all.pop().context("no checkpoint")?.1)
}

fn top1<M>(config: &ClassifierConfig, checkpoint: &Path, run: &RunConfig<M>) -> Result<f64> {
    let network = Classifier::open(config, checkpoint, &Device::Cpu)?;
    let test = embedded::sign_digits(Split::Test)?;
    let (logits, _) = features(|x| network.logits(x), test, &run.eval, &Device::Cpu, 2)?;
    metric(&classifier::metrics(&logits), "top1").context("no top1")
}

fn main() -> Result<()> {
    let runs = PathBuf::from(std::env::args().nth(1).context("usage: semi_supervised RUNS")?);
    let images = || embedded::sign_digits(Split::Train);
    let pretrained = train(&recipe::preset("v2-smoke")?, Unlabelled(images()?), &runs.join("pretrain"))?;

    let mut tune = finetune::preset("smoke")?;
    // A hundred images make few steps an epoch.
    tune.train.batch_size = 50;
    tune.train.epochs = 60;
    let few = || Subset::class_balanced(images()?, LABELS_PER_CLASS, 0);
    let scratch = train(&tune, few()?, &runs.join("scratch"))?;
    println!(
        "supervised, {LABELS_PER_CLASS} labels a class: {:.3}",
        top1(&tune.method.classifier, &scratch, &tune)?
    );
    tune.method.checkpoint = Some(pretrained);
    let tuned = train(&tune, few()?, &runs.join("finetune"))?;
    println!("fine-tuned: {:.3}", top1(&tune.method.classifier, &tuned, &tune)?);

    let mut student = distill::preset("smoke")?;
    student.method.teacher_checkpoint = tuned;
    let distilled = train(&student, Unlabelled(images()?), &runs.join("distill"))?;
    println!("distilled to itself: {:.3}", top1(&student.method.student, &distilled, &student)?);
    Ok(())
}
