//! Trains CPC on a text and probes its sentence vectors beside fresh networks and a bag of words:
//!
//! ```sh
//! cargo run --release --features data --example text -- CORPUS PROBES RUN [PRESET] [vectors=FILE] [minutes=M] [key=value ...]
//! ```
//!
//! CORPUS is a file with one sentence a line, `===` before every document, or `prose` for the slice that comes with the
//! crate. PROBES is a folder of files MR.tsv, CR.tsv, Subj.tsv, MPQA.tsv, TREC.tsv (label, fold or split, text), or `-`
//! for none. `vectors` is a file of word vectors in word2vec's text format, for words that the corpus lacks. `minutes=M`
//! ends training after about M minutes; run it again to go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::Device;
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::config::layered;
use contrastive_core::train::{EpochRecord, Method, Notes, Observer, Outcome, StepRecord};
use contrastive_cpc::text::expand::{WordVectors, expand};
use contrastive_cpc::text::probes::{LabelledSentences, ProbeConfig, accuracy};
use contrastive_cpc::text::run::{fit, step_scores};
use contrastive_cpc::text::{BagOfWords, Embedder, SentenceFeatures, Text, TextCpc, recipe};

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

fn probes(folder: &Path, encoders: &[(&str, &dyn SentenceFeatures)], width: usize) -> Result<()> {
    let config = ProbeConfig::default();
    for name in ["MR", "CR", "Subj", "MPQA", "TREC"] {
        let path = folder.join(format!("{name}.tsv"));
        if !path.is_file() {
            continue;
        }
        let set = LabelledSentences::read(path)?;
        let bag = BagOfWords::new(set.texts(), width)?;
        print!("{name}:");
        for (title, encoder) in encoders.iter().copied().chain([("bag of words", &bag as _)]) {
            print!(" {title} {:.1} %", 100.0 * accuracy(&config, encoder, &set)?);
        }
        println!();
    }
    Ok(())
}

/// The value of an argument `name=value`, which is taken out.
fn take(arguments: &mut Vec<String>, name: &str) -> Option<String> {
    let at = arguments.iter().position(|a| a.split_once('=').is_some_and(|(key, _)| key == name))?;
    arguments.remove(at).split_once('=').map(|(_, value)| value.to_string())
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let minutes = take(&mut arguments, "minutes").map_or(Ok(f64::INFINITY), |text| text.parse())?;
    let vectors = take(&mut arguments, "vectors");
    let [corpus, folder, dir, rest @ ..] = arguments.as_slice() else {
        bail!("usage: text CORPUS PROBES RUN [PRESET] [vectors=FILE] [minutes=M] [key=value ...]");
    };
    let (preset, set) = match rest.split_first() {
        Some((first, rest)) if !first.contains('=') => (first.as_str(), rest),
        _ => ("small", rest),
    };
    let run = layered(&recipe::preset(preset)?, None, set)?;
    let text = if corpus == "prose" { Text::prose() } else { Text::read(corpus)? };
    println!("{}: {} sentences", text.name(), text.sentences().count());

    let stop = Arc::<AtomicBool>::default();
    let mut watch = Watch { began: Instant::now(), minutes, stop: stop.clone() };
    let options =
        RunOptions { stop, resume: true, observers: vec![&mut watch], ..RunOptions::new(PathBuf::from(dir)) };
    let (method, vocabulary, outcome) = fit(&run, &text, options)?;
    if outcome == Outcome::Interrupted {
        println!("time is over; the same command goes on");
        return Ok(());
    }

    let fresh = TextCpc::new(run.method, run.train.seed, &Device::Cpu)?;
    println!("step  loss   accuracy  above (fresh networks)");
    let scores = step_scores(&run, &method, &text, &vocabulary)?;
    let chance = step_scores(&run, &fresh, &text, &vocabulary)?;
    for (k, (score, chance)) in scores.iter().zip(chance).enumerate() {
        let (loss, accuracy, above) = (score.loss, score.accuracy, score.above);
        let k = k + 1;
        println!("{k:4}  {loss:.3}  {accuracy:8.3}  {above:.3} ({:.3}, {:.3})", chance.loss, chance.above);
    }
    if folder == "-" {
        return Ok(());
    }
    let trained = Embedder::new(method.model(), &vocabulary)?;
    let random = Embedder::new(fresh.model(), &vocabulary)?;
    let expanded = match vectors {
        None => None,
        Some(path) => {
            let (words, table) =
                expand(&vocabulary, method.model().encoder.table(), &WordVectors::read(path)?)?;
            println!("{} words behind expansion, {} before", words.len(), vocabulary.len());
            Some(Embedder::with_table(method.model(), words, table)?)
        }
    };
    let mut encoders: Vec<(&str, &dyn SentenceFeatures)> = vec![("CPC", &trained), ("random", &random)];
    if let Some(expanded) = &expanded {
        encoders.push(("CPC expanded", expanded));
    }
    probes(Path::new(folder), &encoders, run.method.encoder.channels)
}
