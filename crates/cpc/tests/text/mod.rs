//! CPC on text.

mod networks;
mod runs;

use std::sync::Arc;

use anyhow::Result;
use candle_core::Tensor;
use contrastive_core::data::{Batch, Batches};
use contrastive_core::dist::single;
use contrastive_core::rng::{Key, Purpose};
use contrastive_cpc::text::run::{loader, vocabulary};
use contrastive_cpc::text::{Text, TextRun, recipe};

/// The smoke preset with few words and narrow layers.
pub fn tiny() -> Result<TextRun> {
    let mut run = recipe::preset("smoke")?;
    run.method.encoder.vocabulary = 60;
    run.method.encoder.embedding = 7;
    run.method.encoder.channels = 9;
    run.method.encoder.kernel = 2;
    run.method.context.width = 8;
    run.windows.words = 6;
    run.train.batch_size = 4;
    Ok(run)
}

/// Documents of ten to twenty sentences. All sentences of a document have words of its subject (one of twelve), and the
/// verbs of successive sentences take turns (three forms).
pub fn stories(count: usize, seed: u64) -> Text {
    let mut lines = Vec::new();
    let mut stream = Key::new(seed, Purpose::Data).stream();
    for document in 0..count {
        lines.push(format!("=== {document}"));
        let (subject, first) = (stream.below(12), stream.below(3));
        for sentence in 0..10 + stream.below(11) {
            let verb = (first + sentence) % 3;
            let mut words = vec![format!("verb{verb}x{}", stream.below(3))];
            for _ in 0..2 + stream.below(4) {
                words.push(format!("noun{subject}x{}", stream.below(5)));
            }
            words.push("the".to_string());
            stream.shuffle(&mut words);
            lines.push(words.join(" ") + ".");
        }
    }
    Text::new("stories", lines.join("\n"))
}

/// The first batch of a run.
pub fn batch(run: &TextRun) -> Result<Batch> {
    let text = stories(12, 2);
    let batches = loader(run, &text, &vocabulary(run, &text)?, 0, &single())?;
    let first = batches.epoch(0, 0).next().expect("a batch")?;
    Ok(first)
}

pub fn values(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}

pub fn packed(sentences: &[Vec<u32>]) -> Arc<contrastive_cpc::text::ops::Packed> {
    Arc::new(contrastive_cpc::text::ops::Packed::new(sentences.iter().map(Vec::as_slice)))
}
