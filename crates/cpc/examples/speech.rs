//! Trains CPC on a folder of speech and probes it beside MFCC and fresh networks:
//!
//! ```sh
//! cargo run --release --features audio --example speech -- FOLDER RUN [PRESET] [key=value ...]
//! ```
//!
//! FOLDER is LibriSpeech's, TIMIT's (or NLTK's sample of it), or has a `labels.csv`. Phones are probed where there are
//! alignments (speakers of regions 7 and 8 for the test), digits where there are any (every fifth speaker for the test),
//! speakers always (every fifth recording of each for the test). `minutes=M` ends training after about M minutes; run it
//! again to go on. `supervised=E` trains the same networks on phones for E epochs instead and prints their accuracy.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::Device;
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::config::layered;
use contrastive_core::train::{EpochRecord, Method, Notes, Observer, Outcome, StepRecord};
use contrastive_cpc::audio::{Corpus, Layout, LoadOptions};
use contrastive_cpc::speech::mfcc::{Mfcc, MfccConfig};
use contrastive_cpc::speech::parts::timit;
use contrastive_cpc::speech::probes::{
    Contexts, FrameEncoder, Parts, ProbeConfig, Task, phone_of, split_recordings, split_speakers,
};
use contrastive_cpc::speech::run::{fit, fit_supervised, step_scores};
use contrastive_cpc::speech::{Recordings, SpeechCpc, SpeechRun, recipe};

/// Prints epochs and ends the run when its time is over.
struct Watch {
    began: Instant,
    minutes: f64,
    stop: Arc<AtomicBool>,
}

impl Observer for Watch {
    fn on_step(&mut self, _record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        if self.began.elapsed().as_secs_f64() > 60.0 * self.minutes {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_epoch(
        &mut self,
        record: &EpochRecord<'_>,
        _: &dyn Method,
        _: &mut Notes,
    ) -> contrastive_core::Result<()> {
        let term = |name: &str| record.terms.iter().find(|(n, _)| n == name).map_or(f64::NAN, |(_, v)| *v);
        let (epoch, of) = (record.progress.epoch + 1, record.progress.total_epochs);
        let (loss, accuracy, above, seconds) = (record.loss, term("accuracy"), term("above"), record.seconds);
        println!(
            "epoch {epoch}/{of} loss {loss:.3} accuracy {accuracy:.3} above {above:.3} ({seconds:.1} s)"
        );
        Ok(())
    }

    fn on_warning(&mut self, step: u64, text: &str) {
        println!("step {step}: {text}");
    }
}

fn rows(
    title: &str,
    parts: &Parts,
    task: Task,
    encoders: &[(&str, &dyn FrameEncoder)],
    every: usize,
) -> Result<()> {
    let hidden = (task == Task::Phones).then_some(256);
    for (name, encoder) in encoders {
        let mean = matches!(task, Task::SpeakersByMean | Task::WordsByMean);
        let linear = ProbeConfig { epochs: if mean { 200 } else { 20 }, every, ..ProbeConfig::default() };
        let accuracy = 100.0 * task.accuracy(*encoder, parts, &linear)?;
        print!("{title} {name}: linear {accuracy:.1} %");
        if let Some(width) = hidden {
            let config = ProbeConfig { hidden: Some(width), epochs: 8, ..linear };
            print!(", one hidden layer {:.1} %", 100.0 * task.accuracy(*encoder, parts, &config)?);
        }
        println!();
    }
    Ok(())
}

/// The row "supervised" of the paper's table 1: the same networks, trained on the phones of all frames.
fn supervised(run: &SpeechRun, recordings: &Recordings, dir: &str, epochs: u64) -> Result<()> {
    let mut run = run.clone();
    run.train.epochs = epochs;
    let parts = timit(recordings)?;
    let classes = LoadOptions::default().folding.classes().len();
    let options = RunOptions { resume: true, ..RunOptions::new(PathBuf::from(dir)) };
    let (method, _) = fit_supervised(&run, &parts.train, (phone_of, classes), options)?;
    let accuracy = method.accuracy(&parts.test, run.windows.scale, phone_of)?;
    println!("phones, supervised: {:.1} %", 100.0 * accuracy);
    Ok(())
}

fn probes(
    recordings: &Recordings,
    layout: Layout,
    encoders: &[(&str, &dyn FrameEncoder)],
    every: usize,
) -> Result<()> {
    let all = split_recordings(recordings, 5)?;
    rows("speakers, every frame,", &all, Task::Speakers, encoders, every * 4)?;
    rows("speakers, mean,", &all, Task::SpeakersByMean, encoders, 1)?;
    if layout == Layout::Timit {
        let parts = timit(recordings)?;
        rows("phones,", &parts, Task::Phones, encoders, every)?;
    }
    if recordings.all().iter().any(|recording| recording.word.is_some()) {
        let parts = split_speakers(recordings, |name| name.parse::<u32>().is_ok_and(|n| n % 5 == 0))?;
        rows("digits, mean,", &parts, Task::WordsByMean, encoders, 1)?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut own = |key: &str| {
        let place = arguments.iter().position(|a| a.starts_with(key));
        place.map(|i| arguments.remove(i)[key.len()..].to_string())
    };
    let minutes = own("minutes=").map_or(Ok(f64::INFINITY), |text| text.parse())?;
    let supervised_epochs = own("supervised=").map(|text| text.parse()).transpose()?;
    let [folder, dir, rest @ ..] = arguments.as_slice() else {
        bail!("usage: speech FOLDER RUN [PRESET] [minutes=M] [key=value ...]");
    };
    let (preset, set) = match rest.split_first() {
        Some((first, rest)) if !first.contains('=') => (first.as_str(), rest),
        _ => ("small", rest),
    };
    let run = layered(&recipe::preset(preset)?, None, set)?;
    let corpus = Corpus::open(folder)?;
    let recordings = corpus.load(LoadOptions::default())?;
    let (count, speakers) = (corpus.len(), corpus.speakers().len());
    println!("{count} recordings of {speakers} speakers, {:.1} minutes", recordings.seconds() / 60.0);
    if let Some(epochs) = supervised_epochs {
        return supervised(&run, &recordings, dir, epochs);
    }

    let stop = Arc::<AtomicBool>::default();
    let mut watch = Watch { began: Instant::now(), minutes, stop: stop.clone() };
    let options =
        RunOptions { stop, resume: true, observers: vec![&mut watch], ..RunOptions::new(PathBuf::from(dir)) };
    let (method, outcome) = fit(&run, &recordings, options)?;
    if outcome == Outcome::Interrupted {
        println!("time is over; the same command goes on");
        return Ok(());
    }

    let fresh = SpeechCpc::new(run.method.clone(), run.train.seed, &Device::Cpu)?;
    println!("step  accuracy  above (fresh networks)");
    let scores = step_scores(&run, &method, &recordings)?;
    for (k, (score, chance)) in scores.iter().zip(step_scores(&run, &fresh, &recordings)?).enumerate() {
        println!(
            "{:4}  {:8.3}  {:.3} ({:.3}, {:.3})",
            k + 1,
            score.accuracy,
            score.above,
            chance.accuracy,
            chance.above
        );
    }
    let mfcc = Mfcc::new(MfccConfig::default())?;
    let contexts = |method| Contexts { model: SpeechCpc::model(method), scale: run.windows.scale };
    let (trained, fresh) = (contexts(&method), contexts(&fresh));
    let encoders: [(&str, &dyn FrameEncoder); 3] = [("CPC", &trained), ("MFCC", &mfcc), ("random", &fresh)];
    // Some hundred thousand frames are enough for a probe, and for memory.
    let every = (recordings.seconds() * 100.0 / 200_000.0).ceil() as usize;
    probes(&recordings, corpus.layout(), &encoders, every)
}
