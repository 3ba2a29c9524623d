//! Parts of CPC and CMC, which train and measure in ways of their own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};

use super::{Arguments, Tier, out};
use crate::train::device;
use crate::{cmc, cpc, tables};

/// Refuses several ranks where they would not be used, or would be used without being told.
pub(super) fn check_ranks(arguments: &Arguments, on_images: &[&str]) -> Result<()> {
    if arguments.ranks == 0 {
        bail!("--ranks must be at least 1");
    }
    if let Some(method) = on_images.first() {
        bail!("--ranks: not for {method} here; use `train {method} --ranks {}`", arguments.ranks);
    }
    // Sums are rounded in another order, and CPC's negatives are those of a rank's own batch.
    if arguments.out.is_none() {
        bail!("--ranks: the documentation's tables are those of one rank; say where to write with --out");
    }
    Ok(())
}

/// The parts of CMC that have scenes, videos or teachers of their own.
pub(super) fn on_scenes(arguments: &Arguments, parts: &[cmc::Part], stop: &Arc<AtomicBool>) -> Result<()> {
    if parts.is_empty() {
        return Ok(());
    }
    if arguments.tier == Tier::Paper {
        println!("{} and its like: left out: they are in the tiers smoke and small", parts[0].name());
        return Ok(());
    }
    let session = cpc::Session { file: cmc::pages::RESULTS, ..session(arguments, stop.clone()) };
    cmc::run(&session, parts, &device(&arguments.device)?)?;
    if arguments.out.is_none() { cmc::pages::document(&tables::root()) } else { Ok(()) }
}

/// How a call runs, for parts that train and measure in ways of their own.
fn session(arguments: &Arguments, stop: Arc<AtomicBool>) -> cpc::Session {
    cpc::Session {
        small: arguments.tier == Tier::Small,
        data: arguments.data.as_ref().map(PathBuf::from),
        out: out(arguments).join(arguments.tier.name()),
        file: cpc::pages::RESULTS,
        seed: arguments.seed,
        resume: arguments.resume,
        quick: arguments.quick,
        set: arguments.set.clone(),
        workers: arguments.workers,
        ranks: arguments.ranks,
        stop,
    }
}

/// The parts of CPC that are not methods on images.
pub(super) fn on_other_data(arguments: &Arguments, parts: &[cpc::Part], stop: Arc<AtomicBool>) -> Result<()> {
    let tier = arguments.tier;
    if tier == Tier::Paper {
        bail!(
            "{}: tier paper is not here: LibriSpeech, BookCorpus and DeepMind Lab; its presets are the crate's",
            cpc::GROUP
        );
    }
    cpc::run(&session(arguments, stop), parts, &device(&arguments.device)?)?;
    if arguments.out.is_none() { cpc::pages::document(&tables::root(), tier.name()) } else { Ok(()) }
}
