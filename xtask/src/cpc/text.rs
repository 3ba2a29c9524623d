//! Table 5.

use anyhow::Result;
use candle_core::Device;
use contrastive_core::data::Batches;
use contrastive_core::dist::single;
use contrastive_cpc::text::probes::{LabelledSentences, ProbeConfig, accuracy};
use contrastive_cpc::text::run::{fit, loader};
use contrastive_cpc::text::{BagOfWords, Embedder, SentenceFeatures, Text, TextCpc, TextRun, recipe};

use super::data::{BOOKS, Found, SETS};
use super::{About, Measured, Part, Session};

/// Logistic regression on sentence vectors.
pub const PROTOCOL: &str = "sentences-logistic-v1";

/// Trains on a text and probes sentences beside a fresh encoder and a bag of words of the same width.
pub fn table5(session: &Session, found: &Found) -> Result<()> {
    found.need(Part::Text)?;
    let (preset, text, sets) = match &found.text {
        None => ("smoke", Text::prose(), vec![LabelledSentences::dialogue()?]),
        Some(folder) => {
            let paths = SETS.map(|name| folder.join(format!("{name}.tsv")));
            let sets = paths.iter().filter(|path| path.is_file()).map(LabelledSentences::read);
            ("small", Text::read(folder.join(BOOKS))?, sets.collect::<contrastive_core::Result<_>>()?)
        }
    };
    for seed in session.seeds(&[0]) {
        let base = recipe::preset(preset)?;
        let run: TextRun = session.configured(&base, base.train.epochs, seed)?;
        let name = format!("cpc-text-{}", text.name());
        let ((method, vocabulary), seconds) = session.train(&name, seed, |options| {
            fit(&run, &text, options).map(|(method, vocabulary, outcome)| ((method, vocabulary), outcome))
        })?;
        let (_, fingerprint) = loader(&run, &text, &vocabulary, 0, &single())?.identity();
        let fresh = TextCpc::new(run.method, run.train.seed, &Device::Cpu)?;
        let trained = Embedder::new(method.model(), &vocabulary)?;
        let random = Embedder::new(fresh.model(), &vocabulary)?;
        for set in &sets {
            let bag = BagOfWords::new(set.texts(), run.method.encoder.channels)?;
            let encoders: [(&str, &dyn SentenceFeatures, f64); 3] =
                [("random", &random, 0.0), ("bag of words", &bag, 0.0), ("cpc", &trained, seconds)];
            for (method, encoder, seconds) in encoders {
                let about = About {
                    method: method.to_string(),
                    recipe: preset.to_string(),
                    dataset: set.name().to_string(),
                    data_hash: fingerprint.get(..16).unwrap_or(&fingerprint).to_string(),
                    config_hash: run.hash()?,
                    seed,
                    seconds,
                };
                let value = accuracy(&ProbeConfig::default(), encoder, set)?;
                session.record(&about, &[Measured::accuracy(PROTOCOL, value)])?;
            }
        }
    }
    Ok(())
}
