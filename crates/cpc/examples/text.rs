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

mod common;

use std::path::Path;

use anyhow::{Result, bail};
use candle_core::Device;
use contrastive_core::train::Outcome;
use contrastive_core::train::config::layered;
use contrastive_cpc::text::expand::{WordVectors, expand};
use contrastive_cpc::text::probes::{LabelledSentences, ProbeConfig, accuracy};
use contrastive_cpc::text::run::{fit, step_scores};
use contrastive_cpc::text::{BagOfWords, Embedder, SentenceFeatures, Text, TextCpc, recipe};

use common::{Watch, preset, take};

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

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let minutes = take(&mut arguments, "minutes").map_or(Ok(f64::INFINITY), |text| text.parse())?;
    let vectors = take(&mut arguments, "vectors");
    let [corpus, folder, dir, rest @ ..] = arguments.as_slice() else {
        bail!("usage: text CORPUS PROBES RUN [PRESET] [vectors=FILE] [minutes=M] [key=value ...]");
    };
    let (name, set) = preset(rest, "small");
    let run = layered(&recipe::preset(name)?, None, set)?;
    let text = if corpus == "prose" { Text::prose() } else { Text::read(corpus)? };
    println!("{}: {} sentences", text.name(), text.sentences().count());

    let mut watch = Watch::new(minutes, false);
    let (method, vocabulary, outcome) = fit(&run, &text, watch.options(dir))?;
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
