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

mod common;

use std::path::PathBuf;

use anyhow::{Result, bail};
use candle_core::Device;
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::Outcome;
use contrastive_core::train::config::layered;
use contrastive_cpc::audio::{Corpus, Layout, LoadOptions};
use contrastive_cpc::speech::mfcc::{Mfcc, MfccConfig};
use contrastive_cpc::speech::parts::timit;
use contrastive_cpc::speech::probes::{
    Contexts, FrameEncoder, Parts, ProbeConfig, Task, phone_of, split_recordings, split_speakers,
};
use contrastive_cpc::speech::run::{fit, fit_supervised, step_scores};
use contrastive_cpc::speech::{Recordings, SpeechCpc, SpeechRun, recipe};

use common::{Watch, preset, take};

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
    let minutes = take(&mut arguments, "minutes").map_or(Ok(f64::INFINITY), |text| text.parse())?;
    let supervised_epochs = take(&mut arguments, "supervised").map(|text| text.parse()).transpose()?;
    let [folder, dir, rest @ ..] = arguments.as_slice() else {
        bail!("usage: speech FOLDER RUN [PRESET] [minutes=M] [key=value ...]");
    };
    let (name, set) = preset(rest, "small");
    let run = layered(&recipe::preset(name)?, None, set)?;
    let corpus = Corpus::open(folder)?;
    let recordings = corpus.load(LoadOptions::default())?;
    let (count, speakers) = (corpus.len(), corpus.speakers().len());
    println!("{count} recordings of {speakers} speakers, {:.1} minutes", recordings.seconds() / 60.0);
    if let Some(epochs) = supervised_epochs {
        return supervised(&run, &recordings, dir, epochs);
    }

    let mut watch = Watch::new(minutes, false);
    let (method, outcome) = fit(&run, &recordings, watch.options(dir))?;
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
