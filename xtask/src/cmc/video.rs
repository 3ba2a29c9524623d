//! Videos at hand: a frame contrasted with a later one (V), with the motion around it (D), and networks that learned
//! nothing, each asked for the class of test clips.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Device;
use contrastive_cmc::Cmc;
use contrastive_cmc::flow::recipe::preset;
use contrastive_cmc::flow::video::{Moments, VideoRun};
use contrastive_core::data::Source;
use contrastive_core::eval::{Protocol, metric};

use super::epochs;
use crate::cpc::{About, Measured, Session};

/// Both kinds on `DATA/train/CLASS/CLIP/FRAME.jpg` and `DATA/test/…`.
pub fn kinds(session: &Session, data: &Path) -> Result<()> {
    for seed in session.seeds(&[0]) {
        for (name, letter) in [("small-motion", "D"), ("small-frames", "V")] {
            let base = preset(name)?;
            let run: VideoRun = session.configured(&base, epochs(session, base.train.epochs), seed)?;
            let keep = session.out.join("moments");
            let open = |part| Moments::open(&data.join(part), run.moments, Some(&keep));
            let (train, test) = (Arc::new(open("train")?), open("test")?);
            let random = Cmc::new(run.method.clone(), seed, &Device::Cpu)?;
            let measured = Measuring { session, run: &run, data, recipe: name };
            measured.record(&format!("video {letter}, random"), &random, [&train, &test], 0.0)?;
            let (method, seconds) = session
                .train(&format!("cmc-video-{letter}"), seed, |options| run.fit(train.clone(), options))?;
            measured.record(&format!("video {letter}, CMC"), &method, [&train, &test], seconds)?;
        }
    }
    Ok(())
}

/// What all rows of a run share.
struct Measuring<'a> {
    session: &'a Session,
    run: &'a VideoRun,
    data: &'a Path,
    recipe: &'a str,
}

impl Measuring<'_> {
    fn record(&self, name: &str, method: &Cmc, [train, test]: [&Moments; 2], seconds: f64) -> Result<()> {
        let folder = self.data.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let about = About {
            method: name.to_string(),
            recipe: self.recipe.into(),
            dataset: folder,
            data_hash: test.fingerprint().chars().take(16).collect(),
            config_hash: self.run.hash()?,
            seed: self.run.train.seed,
            seconds,
        };
        let [train, test] = [self.run.features(method, train)?, self.run.features(method, test)?];
        for protocol in [Protocol::KnnK20T007V1, Protocol::LinearLbfgsV1] {
            let top1 = metric(&protocol.evaluate(&train, &test)?, "top1").context("top1")?;
            self.session.record(&about, &[Measured::accuracy(protocol.name(), top1)])?;
        }
        Ok(())
    }
}
