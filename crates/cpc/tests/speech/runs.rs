//! Whole runs: resume, learning, probes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use candle_core::Device;
use contrastive_core::dist::run_in_process;
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::{EpochRecord, Method, Notes, Observer, Outcome, StepRecord};
use contrastive_cpc::speech::mfcc::{Mfcc, MfccConfig};
use contrastive_cpc::speech::probes::{
    Contexts, ProbeConfig, Task, phone_of, split_recordings, split_speakers,
};
use contrastive_cpc::speech::run::{fit, fit_supervised, step_scores, window_contexts};
use contrastive_cpc::speech::{SpeechCpc, SpeechRun, recipe, synthetic};
use contrastive_cpc::{NegativesConfig, Scheme};

use super::{few, tiny};

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

fn train(run: &SpeechRun, dir: &Path, workers: usize, stop_at: Option<u64>, resume: bool) -> Result<Outcome> {
    let mut watch = Watch { stop_at, ..Watch::default() };
    let stop = watch.stop.clone();
    let options = RunOptions { resume, workers, stop, observers: vec![&mut watch], ..RunOptions::new(dir) };
    Ok(fit(run, &few()?, options)?.1)
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
    for one_speaker_batches in [false, true] {
        let mut run = tiny()?;
        run.train.epochs = 2;
        run.windows.one_speaker_batches = one_speaker_batches;
        run.method.objective.negatives.count = Some(9);
        let folder = tempfile::tempdir()?;
        let straight = folder.path().join("straight");
        assert_eq!(train(&run, &straight, 1, None, false)?, Outcome::Finished);
        let expected = final_bytes(&straight)?;
        for (workers, stop_at) in [(0, 0), (2, 3)] {
            let dir = folder.path().join(format!("stopped-{workers}"));
            assert_eq!(train(&run, &dir, workers, Some(stop_at), false)?, Outcome::Interrupted);
            assert_eq!(train(&run, &dir, workers, None, true)?, Outcome::Finished);
            assert!(final_bytes(&dir)? == expected, "{workers} workers, stopped after step {stop_at}");
        }
    }
    Ok(())
}

/// A short run on synthetic voices: predictions get better than guessing and better for near steps than for far ones, phones
/// are told better from contexts than from those of fresh networks, and the collapse instruments stay silent.
#[test]
fn contexts_learn() -> Result<()> {
    let mut run = recipe::preset("smoke")?;
    run.method.encoder.channels = 32;
    run.method.context.width = 32;
    run.train.epochs = 40;
    let voices = synthetic::voices(4, 16, 1.0, 1)?;
    let held_out = synthetic::voices(4, 4, 1.0, 99)?;
    let fresh = SpeechCpc::new(run.method.clone(), run.train.seed, &Device::Cpu)?;
    let folder = tempfile::tempdir()?;
    let mut watch = Watch::default();
    let options = RunOptions { observers: vec![&mut watch], ..RunOptions::new(folder.path().join("run")) };
    let (method, _) = fit(&run, &voices, options)?;
    assert!(watch.warnings.is_empty(), "{:?}", watch.warnings);
    assert!(watch.losses[39] < watch.losses[0] - 1.0, "{:?}", watch.losses);

    let scores = step_scores(&run, &method, &held_out)?;
    let chance = step_scores(&run, &fresh, &held_out)?;
    assert!(scores[0].accuracy > 0.04 && chance[0].accuracy < 0.01, "{:?} {:?}", scores[0], chance[0]);
    assert!(scores[0].above > 0.93 && scores[5].above > 0.65, "{scores:?}");
    assert!(scores[0].accuracy > scores[5].accuracy, "{scores:?}");

    let contexts = |method: &SpeechCpc| -> Result<f64> {
        let parts = split_recordings(&voices, 4)?;
        let encoder = Contexts { model: method.model(), scale: run.windows.scale };
        Ok(Task::Phones.accuracy(&encoder, &parts, &ProbeConfig { epochs: 6, ..ProbeConfig::default() })?)
    };
    let (trained, random) = (contexts(&method)?, contexts(&fresh)?);
    assert!(trained > random + 0.05, "phones: {trained:.3}, fresh networks {random:.3}");

    let points = window_contexts(&run, &method, &voices, 2, 3)?;
    assert_eq!((points.n, points.dim, points.classes()), (2 * 16 * 3, 32, 2));
    Ok(())
}

#[test]
fn supervised_training_reaches_phones() -> Result<()> {
    let mut run = tiny()?;
    run.method.encoder.channels = 24;
    run.method.context.width = 24;
    run.train.epochs = 25;
    let voices = synthetic::voices(2, 12, 0.7, 1)?;
    let folder = tempfile::tempdir()?;
    let options = RunOptions::new(folder.path().join("run"));
    let (method, _) = fit_supervised(&run, &voices, (phone_of, synthetic::PHONES), options)?;
    let accuracy = method.accuracy(&voices, run.windows.scale, phone_of)?;
    assert!(accuracy > 0.4, "{accuracy}");
    let out_of_range =
        fit_supervised(&run, &voices, (phone_of, 3), RunOptions::new(folder.path().join("few")));
    assert!(
        out_of_range.map(|_| ()).expect_err("refused").to_string().contains("out of range for 3 classes")
    );
    Ok(())
}

#[test]
fn probes_tell_voices_apart_by_their_cepstra() -> Result<()> {
    let voices = synthetic::voices(4, 8, 0.8, 3)?;
    let mfcc = Mfcc::new(MfccConfig::default())?;
    let parts = split_recordings(&voices, 4)?;
    assert_eq!((parts.train.all().len(), parts.test.all().len()), (24, 8));
    let config = ProbeConfig { epochs: 8, ..ProbeConfig::default() };
    let by_mean = Task::SpeakersByMean.accuracy(&mfcc, &parts, &ProbeConfig { epochs: 200, ..config })?;
    let by_frame = Task::Speakers.accuracy(&mfcc, &parts, &config)?;
    assert!(by_mean > 0.6 && by_frame > 0.4, "speakers by mean {by_mean}, by frame {by_frame}");
    let linear = Task::Phones.accuracy(&mfcc, &parts, &config)?;
    let hidden = Task::Phones.accuracy(&mfcc, &parts, &ProbeConfig { hidden: Some(64), ..config })?;
    assert!(linear > 0.5 && hidden > 0.5, "linear {linear}, hidden {hidden}");
    let by_speaker = split_speakers(&voices, |name| name == "voice3")?;
    assert!(by_speaker.test.all().iter().all(|r| r.speaker == 3) && by_speaker.test.all().len() == 8);
    assert!(Task::WordsByMean.accuracy(&mfcc, &parts, &config).is_err(), "nothing is said in few words");
    Ok(())
}

/// Each rank trains on its part of every batch. Only negatives of the sequence itself are the same on any number of ranks.
#[test]
fn a_run_on_two_ranks_is_that_on_one() -> Result<()> {
    for one_speaker_batches in [false, true] {
        let mut run = tiny()?;
        (run.train.epochs, run.optim.lr) = (2, 1e-4);
        run.windows.one_speaker_batches = one_speaker_batches;
        run.method.objective.negatives = NegativesConfig { scheme: Scheme::CurrentSequence, count: None };
        let folder = tempfile::tempdir()?;
        let losses = |ranks: usize| {
            let all = run_in_process(ranks, |comm| {
                let mut watch = Watch::default();
                let observers: Vec<&mut dyn Observer> = vec![&mut watch];
                let dir = folder.path().join(format!("{ranks}"));
                let recordings = few().map_err(|e| contrastive_core::Error::data("few", e.to_string()))?;
                fit(&run, &recordings, RunOptions { workers: 1, comm, observers, ..RunOptions::new(dir) })?;
                Ok(watch.losses)
            })?;
            Ok::<_, anyhow::Error>(all.concat())
        };
        let (one, two) = (losses(1)?, losses(2)?);
        assert_eq!((one.len(), two.len()), (2, 4), "two epochs on each rank");
        for (i, loss) in two.iter().enumerate() {
            assert!((loss - one[i % 2]).abs() < 1e-3 * one[i % 2], "{two:?} on two ranks, {one:?} on one");
        }
    }
    Ok(())
}
