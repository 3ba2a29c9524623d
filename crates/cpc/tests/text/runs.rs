//! Whole runs: resume, learning, sentence vectors.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use candle_core::Device;
use contrastive_core::dist::{run_in_process, single};
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::{EpochRecord, Method, Notes, Observer, Outcome, StepRecord};
use contrastive_cpc::text::run::{VOCABULARY, fit, loader, step_scores, vocabulary};
use contrastive_cpc::text::{
    Embedder, SentenceFeatures, Text, TextCpc, TextRun, Vectors, Vocabulary, recipe,
};

use super::{stories, tiny};

/// Raises the stop flag after a step; keeps warnings.
#[derive(Default)]
struct Watch {
    stop_at: Option<u64>,
    stop: Arc<AtomicBool>,
    warnings: Vec<String>,
    losses: Vec<f64>,
}

impl Observer for Watch {
    fn on_step(&mut self, record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        if Some(record.progress.step) == self.stop_at {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_epoch(
        &mut self,
        record: &EpochRecord<'_>,
        _method: &dyn Method,
        _notes: &mut Notes,
    ) -> contrastive_core::Result<()> {
        self.losses.push(record.loss);
        Ok(())
    }

    fn on_warning(&mut self, _step: u64, text: &str) {
        self.warnings.push(text.to_string());
    }
}

fn train(run: &TextRun, dir: &Path, workers: usize, stop_at: Option<u64>, resume: bool) -> Result<Outcome> {
    let mut watch = Watch { stop_at, ..Watch::default() };
    let stop = watch.stop.clone();
    let options = RunOptions { resume, workers, stop, observers: vec![&mut watch], ..RunOptions::new(dir) };
    Ok(fit(run, &stories(12, 2), options)?.2)
}

fn final_bytes(dir: &Path) -> Result<[Vec<u8>; 2]> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir.join("checkpoints"))?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    names.sort();
    let last = names.last().ok_or_else(|| anyhow!("no checkpoint"))?;
    Ok([std::fs::read(last)?, std::fs::read(dir.join("encoder.safetensors"))?])
}

#[test]
fn resumed_runs_end_in_the_same_bytes() -> Result<()> {
    let mut run = tiny()?;
    run.train.epochs = 2;
    let folder = tempfile::tempdir()?;
    let straight = folder.path().join("straight");
    assert_eq!(train(&run, &straight, 1, None, false)?, Outcome::Finished);
    let expected = final_bytes(&straight)?;
    for (workers, stop_at) in [(0, 0), (2, 7)] {
        let dir = folder.path().join(format!("stopped-{workers}"));
        assert_eq!(train(&run, &dir, workers, Some(stop_at), false)?, Outcome::Interrupted);
        assert_eq!(train(&run, &dir, workers, None, true)?, Outcome::Finished);
        assert!(final_bytes(&dir)? == expected, "{workers} workers, stopped after step {stop_at}");
    }
    Ok(())
}

/// Subject and verb of the next sentences are learnt from stories, and hold for stories that training never saw.
#[test]
fn next_sentences_are_learnt() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.method.encoder.vocabulary = 100;
    run.method.encoder.embedding = 24;
    run.method.encoder.channels = 48;
    run.method.context.width = 48;
    run.train.epochs = 15;
    let (text, held_out) = (stories(150, 1), stories(60, 77));
    let folder = tempfile::tempdir()?;
    let mut watch = Watch::default();
    let options = RunOptions { observers: vec![&mut watch], ..RunOptions::new(folder.path().join("run")) };
    let (method, words, _) = fit(&run, &text, options)?;
    assert!(watch.warnings.is_empty(), "{:?}", watch.warnings);
    assert!(watch.losses[14] < watch.losses[0] - 3.0, "{:?}", watch.losses);
    assert_eq!(Vocabulary::load(folder.path().join("run").join(VOCABULARY))?, words);

    let fresh = TextCpc::new(run.method, run.train.seed, &Device::Cpu)?;
    let scores = step_scores(&run, &method, &held_out, &words)?;
    let chance = step_scores(&run, &fresh, &held_out, &words)?;
    for (score, chance) in scores.iter().zip(&chance) {
        assert!(score.above > 0.85 && chance.above < 0.7, "{scores:?} {chance:?}");
        assert!(score.loss < chance.loss - 0.8, "{scores:?} {chance:?}");
    }

    // Vectors of any sentences.
    let sentences = ["The noun1x0 verb0x1.".to_string(), String::new(), "never seen ".repeat(40)];
    let mut embedder = Embedder::new(method.model(), &words)?;
    let features = embedder.features(&sentences)?;
    assert_eq!(features.len(), 3 * 48);
    // Nothing known: unknown words throughout, however many.
    assert!(features[48..96].iter().zip(&features[96..]).all(|(a, b)| (a - b).abs() < 1e-5));
    assert_ne!(features[..48], features[48..96]);
    embedder.vectors = Vectors::Contexts;
    assert_eq!((embedder.width(), embedder.features(&sentences)?.len()), (48, 3 * 48));
    Ok(())
}

#[test]
fn the_prose_that_comes_along_fits_the_smoke_preset() -> Result<()> {
    let run = recipe::preset("smoke")?;
    let text = Text::prose();
    let words = vocabulary(&run, &text)?;
    assert_eq!(words.len(), run.method.encoder.vocabulary);
    assert!(words.number("bennet").is_some());
    loader(&run, &text, &words, 0, &single())?;
    let mut small = run;
    small.method.encoder.vocabulary = 100;
    let refused = loader(&small, &text, &words, 0, &single()).map(|_| ()).expect_err("refused").to_string();
    assert!(refused.contains("2000 words where the networks have vectors for 100"), "{refused}");
    Ok(())
}

/// Each rank trains on its part of every batch, and rank 0 writes.
#[test]
fn a_run_on_two_ranks_is_that_on_one() -> Result<()> {
    let mut run = tiny()?;
    (run.train.epochs, run.optim.lr) = (2, 1e-4);
    let folder = tempfile::tempdir()?;
    let losses = |ranks: usize| {
        let all = run_in_process(ranks, |comm| {
            let mut watch = Watch::default();
            let dir = folder.path().join(format!("{ranks}"));
            let observers: Vec<&mut dyn Observer> = vec![&mut watch];
            let options = RunOptions { workers: 1, comm, observers, ..RunOptions::new(dir) };
            fit(&run, &stories(12, 2), options)?;
            Ok(watch.losses)
        })?;
        assert!(folder.path().join(format!("{ranks}")).join(VOCABULARY).is_file());
        Ok::<_, anyhow::Error>(all.concat())
    };
    let (one, two) = (losses(1)?, losses(2)?);
    assert_eq!((one.len(), two.len()), (2, 4), "two epochs on each rank");
    for (i, loss) in two.iter().enumerate() {
        assert!((loss - one[i % 2]).abs() < 1e-3 * one[i % 2], "{two:?} on two ranks, {one:?} on one");
    }
    Ok(())
}
