//! `cargo xtask reproduce cpc`: the paper's kinds of data, each of which trains and is measured in its own way. What is
//! measured is the crate's; here it is called, and its numbers become rows, tables and figures.

mod data;
pub mod figures;
pub mod pages;
mod rl;
mod speech;
mod text;
pub mod units;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use contrastive_core::dist::{Comm, run_in_process, single};
use contrastive_core::experiment::RunOptions;
use contrastive_core::train::config::layered;
use contrastive_core::train::{Observer, Outcome};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::curves;
use crate::progress::Bar;
use crate::results::{self, Row};
use crate::train::Interrupted;

/// The name for all parts together.
pub const GROUP: &str = "cpc";

/// The part that runs as the methods on images do, where it is among them.
pub const IMAGES: &str = "cpc-images";

/// A part of the reproduction that can be asked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Table 1 and figure 2.
    Speech,
    /// Figure 3, and the upper half of table 2.
    Steps,
    /// The lower half of table 2.
    Negatives,
    /// Table 5.
    Text,
    /// Figure 6.
    Rl,
}

impl Part {
    /// All, in the order in which they are run.
    pub const ALL: [Self; 5] = [Self::Speech, Self::Steps, Self::Negatives, Self::Text, Self::Rl];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Speech => "cpc-speech",
            Self::Steps => "cpc-steps",
            Self::Negatives => "cpc-negatives",
            Self::Text => "cpc-text",
            Self::Rl => "cpc-rl",
        }
    }
}

/// All names that can be asked for here.
pub fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(GROUP).chain(Part::ALL.map(Part::name))
}

/// The parts among names, and what else there is.
pub fn split<'a>(names: &[&'a str]) -> (Vec<Part>, Vec<&'a str>) {
    let whole = names.contains(&GROUP);
    let parts = Part::ALL.into_iter().filter(|part| whole || names.contains(&part.name())).collect();
    let own = |name: &str| name == GROUP || Part::ALL.iter().any(|part| part.name() == name);
    let mut others: Vec<&str> = names.iter().copied().filter(|name| !own(name)).collect();
    if whole && crate::methods::NAMES.contains(&IMAGES) && !others.contains(&IMAGES) {
        others.push(IMAGES);
    }
    (parts, others)
}

/// How a call runs.
pub struct Session {
    /// Tier `small`, otherwise `smoke`.
    pub small: bool,
    /// The folder of data of tier `small`.
    pub data: Option<PathBuf>,
    /// The tier's folder of results.
    pub out: PathBuf,
    /// The file of results in it.
    pub file: &'static str,
    /// One seed instead of the part's.
    pub seed: Option<u64>,
    /// Go on from checkpoints.
    pub resume: bool,
    /// A tenth of the epochs.
    pub quick: bool,
    /// Settings over presets.
    pub set: Vec<String>,
    /// Threads that prepare batches, for each rank.
    pub workers: usize,
    /// Ranks of this process that train together.
    pub ranks: usize,
    /// Raised by a signal.
    pub stop: Arc<AtomicBool>,
}

/// What a row is about, beside its number.
#[derive(Clone)]
pub(crate) struct About {
    pub method: String,
    pub recipe: String,
    pub dataset: String,
    pub data_hash: String,
    pub config_hash: String,
    pub seed: u64,
    pub seconds: f64,
}

/// One number of a run.
pub(crate) struct Measured {
    pub protocol: String,
    pub metric: &'static str,
    pub unit: &'static str,
    pub value: f64,
}

impl Measured {
    /// An accuracy, which is given as a fraction.
    pub(crate) fn accuracy(protocol: impl Into<String>, fraction: f64) -> Self {
        Self { protocol: protocol.into(), metric: "top1", unit: "%", value: 100.0 * fraction }
    }
}

impl Session {
    pub(crate) fn tier(&self) -> &'static str {
        if self.small { "small" } else { "smoke" }
    }

    /// The results of this tier.
    fn results(&self) -> PathBuf {
        self.out.join(self.file)
    }

    pub(crate) fn seeds(&self, usual: &[u64]) -> Vec<u64> {
        self.seed.map_or_else(|| usual.to_vec(), |seed| vec![seed])
    }

    /// A preset with the settings of this call over it, and its number of epochs changed by `epochs`.
    pub(crate) fn configured<T: Serialize + DeserializeOwned>(
        &self,
        preset: &T,
        epochs: u64,
        seed: u64,
    ) -> Result<T> {
        let epochs = if self.quick { (epochs / 10).max(1) } else { epochs };
        let mut set = vec![format!("train.epochs={epochs}")];
        set.extend(self.set.iter().cloned());
        set.push(format!("train.seed={seed}"));
        Ok(layered(preset, None, &set)?)
    }

    /// Trains in the run directory of this name; what is trained, with the seconds that it took.
    pub(crate) fn train<M>(
        &self,
        name: &str,
        seed: u64,
        fit: impl Fn(RunOptions<'_>) -> contrastive_core::Result<(M, Outcome)> + Sync,
    ) -> Result<(M, f64)>
    where
        M: Send,
    {
        let dir = self.out.join("runs").join(format!("{name}-seed{seed}"));
        if !self.resume && dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        let bar = Mutex::new(Some(Bar::new(name)?));
        let on = |comm: Comm| {
            let root = comm.rank() == 0;
            let mut bar = if root { bar.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
            fit(RunOptions {
                resume: self.resume,
                workers: self.workers,
                stop: self.stop.clone(),
                comm,
                observers: bar.iter_mut().map(|bar| bar as &mut dyn Observer).collect(),
                ..RunOptions::new(&dir)
            })
        };
        let (method, outcome) = match self.ranks {
            1 => on(single())?,
            ranks => run_in_process(ranks, on)?.into_iter().next().context("--ranks must be at least 1")?,
        };
        if outcome == Outcome::Interrupted {
            return Err(Interrupted.into());
        }
        let (_, seconds) = curves::Curve::read(name, seed, &dir)?;
        println!("{name}, seed {seed}: trained in {seconds:.0} s");
        Ok((method, seconds))
    }

    /// Prints numbers and puts them among the results.
    pub(crate) fn record(&self, about: &About, numbers: &[Measured]) -> Result<()> {
        let mut rows = Vec::with_capacity(numbers.len());
        for Measured { protocol, metric, unit, value } in numbers {
            println!("{:<44} {:<22} {protocol:<28} {value:6.2} {unit}", about.method, about.dataset);
            rows.push(Row {
                method: about.method.clone(),
                recipe: about.recipe.clone(),
                dataset: about.dataset.clone(),
                protocol: protocol.clone(),
                metric: (*metric).into(),
                unit: (*unit).into(),
                value: Some((value * 100.0).round() / 100.0),
                paper: None,
                seed: about.seed,
                seconds: about.seconds.round(),
                config_hash: about.config_hash.clone(),
                data_hash: about.data_hash.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                device: "cpu".into(),
                missing: None,
            });
        }
        results::merge(&self.results(), rows)?;
        Ok(())
    }

    /// Adds points to the figures of this tier.
    fn draw(&self, change: impl FnOnce(&mut figures::Figures)) -> Result<()> {
        let path = self.out.join(pages::FIGURES);
        let mut figures = figures::read(&path)?;
        change(&mut figures);
        figures::write(&path, &figures)
    }
}

/// Runs parts one after another. What one has measured stays when another fails.
pub fn run(session: &Session, parts: &[Part], device: &Device) -> Result<()> {
    if !device.is_cpu() {
        bail!("{GROUP}: its parts are measured on the CPU only; leave --device out");
    }
    let found = data::Found::new(session)?;
    for part in parts {
        // A folder need not hold everything; a part that was asked for by name says what it lacks.
        if let (Some(lacks), false) = (found.lacks(*part), parts.len() == 1) {
            println!("{}: left out: {lacks}", part.name());
            continue;
        }
        println!("== {}, tier {}", part.name(), session.tier());
        match part {
            Part::Speech => speech::table1(session, &found)?,
            Part::Steps => speech::steps(session, &found)?,
            Part::Negatives => speech::negatives(session, &found)?,
            Part::Text => text::table5(session, &found)?,
            Part::Rl => rl::figure6(session)?,
        }
    }
    let rows = results::read(&session.results())?;
    print!("{}", pages::tables(&rows));
    figures::draw(&session.out, session.tier(), &figures::read(&session.out.join(pages::FIGURES))?)?;
    println!("{}", session.results().display());
    Ok(())
}

/// A path as the results name its collection: without the folders above it.
fn short_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "data".to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_from_methods() {
        let (parts, others) = split(&["references", "cpc-rl", "simclr", "cpc-speech"]);
        assert_eq!((parts, others), (vec![Part::Speech, Part::Rl], vec!["references", "simclr"]));
        let (parts, others) = split(&["cpc"]);
        assert_eq!(parts, Part::ALL);
        assert_eq!(others.is_empty(), !crate::methods::NAMES.contains(&IMAGES));
        assert_eq!(names().count(), 6);
    }
}
