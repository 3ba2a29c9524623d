//! Tables 1 and 2, figures 2 and 3.

use std::path::Path;

use anyhow::{Context, Result};
use contrastive_core::data::Source;
use contrastive_core::dist::single;
use contrastive_core::eval::{TsneConfig, tsne};
use contrastive_cpc::Scheme;
use contrastive_cpc::audio::{Corpus, LoadOptions, librispeech};
use contrastive_cpc::speech::compare::{Input, Probe, compare};
use contrastive_cpc::speech::parts::{pieces, split_time, timit};
use contrastive_cpc::speech::probes::{
    LabelOf, Parts, Task, phone_of, speaker_of, split_recordings, split_speakers,
};
use contrastive_cpc::speech::run::{fit, fit_supervised, loader, step_scores, window_contexts};
use contrastive_cpc::speech::{Recordings, SpeechCpc, SpeechRun, recipe};

use super::data::Found;
use super::figures::{Plane, Steps};
use super::{About, Measured, Part, Session};

/// Steps of figure 3.
const FIGURE_STEPS: usize = 20;

/// What the networks of figure 3 and of table 2's steps are trained for is one so-many-th of table 1's: there are seven
/// of them.
const STEPS: u64 = 3;

/// Speakers of figure 2 and windows of all of them: the figure stays small.
const PLANE: (usize, usize) = (10, 400);

/// A collection, divided, and what it is asked.
struct Collection {
    dataset: String,
    preset: &'static str,
    /// What CPC trains on, without labels.
    train: Recordings,
    /// What probes and the supervised networks learn from, and what all are measured on.
    parts: Parts,
    probes: Vec<Probe>,
    label: LabelOf,
    classes: usize,
    supervised_protocol: &'static str,
}

impl Collection {
    /// Six utterances, divided in time.
    fn embedded() -> Result<Self> {
        let all = librispeech()?;
        let parts = split_time(&all, 0.75)?;
        let window = recipe::preset("smoke")?.windows.samples;
        Ok(Self {
            dataset: all.name().to_string(),
            preset: "smoke",
            train: pieces(&parts.train, 2 * window)?,
            parts,
            probes: vec![Probe::linear(Task::Speakers)],
            label: speaker_of,
            classes: all.speakers().len(),
            supervised_protocol: "speakers-linear-v1",
        })
    }

    /// TIMIT by speaker. CPC hears everything that the training speakers say.
    fn timit(folder: &Path) -> Result<Self> {
        let all = Corpus::open(folder)?.load(LoadOptions::default())?;
        let train = split_speakers(&all, |name| name.starts_with("dr7") || name.starts_with("dr8"))?.train;
        let probe = |hidden| Probe { task: Task::Phones, hidden };
        Ok(Self {
            dataset: format!("timit-{}", all.speakers().len()),
            preset: "small-timit",
            train,
            parts: timit(&all)?,
            probes: vec![probe(false), probe(true)],
            label: phone_of,
            classes: LoadOptions::default().folding.classes().len(),
            supervised_protocol: "phones-linear-v1",
        })
    }

    /// Recordings with labels, every fifth of each speaker for the test.
    fn digits(folder: &Path) -> Result<Self> {
        let all = Corpus::open(folder)?.load(LoadOptions::default())?;
        let parts = split_recordings(&all, 5)?;
        Ok(Self {
            dataset: format!("{}-{}", super::short_name(folder), all.speakers().len()),
            preset: "small-digits",
            train: parts.train.clone(),
            parts,
            probes: vec![Probe::linear(Task::Speakers), Probe::linear(Task::SpeakersByMean)],
            label: speaker_of,
            classes: all.speakers().len(),
            supervised_protocol: "speakers-linear-v1",
        })
    }

    fn speakers(&self) -> bool {
        self.probes[0].task == Task::Speakers
    }

    fn data_hash(&self) -> String {
        let short = |r: &Recordings| r.fingerprint().get(..16).unwrap_or_default().to_string();
        format!("{}+{}+{}", short(&self.train), short(&self.parts.train), short(&self.parts.test))
    }

    fn about(&self, method: &str, run: &SpeechRun, seconds: f64) -> Result<About> {
        Ok(About {
            method: method.to_string(),
            recipe: self.preset.to_string(),
            dataset: self.dataset.clone(),
            data_hash: self.data_hash(),
            config_hash: run.hash()?,
            seed: run.train.seed,
            seconds,
        })
    }

    /// Trains CPC with settings changed by `change`, for one `part`-th of the updates that the preset has.
    fn trained(
        &self,
        session: &Session,
        name: &str,
        (seed, part): (u64, u64),
        change: impl FnOnce(&mut SpeechRun),
    ) -> Result<(SpeechRun, SpeechCpc, f64)> {
        let preset = recipe::preset(self.preset)?;
        let updates = (preset.train.epochs * per_epoch(&preset, &self.train)? / part).max(1);
        let mut changed = preset;
        change(&mut changed);
        let epochs = updates.div_ceil(per_epoch(&changed, &self.train)?);
        let run: SpeechRun = session.configured(&changed, epochs, seed)?;
        run.check()?;
        let name = format!("{name}-{}", self.dataset);
        let (method, seconds) = session.train(&name, seed, |options| fit(&run, &self.train, options))?;
        Ok((run, method, seconds))
    }
}

/// Updates of an epoch.
fn per_epoch(run: &SpeechRun, recordings: &Recordings) -> Result<u64> {
    Ok(contrastive_core::data::Batches::steps_per_epoch(&loader(run, recordings, 0, &single())?))
}

fn collections(session: &Session, found: &Found) -> Result<Vec<Collection>> {
    if !session.small {
        return Ok(vec![Collection::embedded()?]);
    }
    let mut all = Vec::new();
    if let Some(folder) = &found.timit {
        all.push(Collection::timit(folder).with_context(|| folder.display().to_string())?);
    }
    if let Some(folder) = &found.digits {
        all.push(Collection::digits(folder).with_context(|| folder.display().to_string())?);
    }
    Ok(all)
}

/// Phones and speakers on contexts, MFCC and fresh networks, and the same networks with labels; speakers in the plane.
pub fn table1(session: &Session, found: &Found) -> Result<()> {
    found.need(Part::Speech)?;
    for collection in collections(session, found)? {
        for seed in session.seeds(&[0]) {
            let (run, method, seconds) = collection.trained(session, "cpc-speech", (seed, 1), |_| {})?;
            for input in Input::ALL {
                let spent = if input == Input::Cpc { seconds } else { 0.0 };
                let about = collection.about(input.name(), &run, spent)?;
                let scores = compare(&run, &method, &[input], &collection.probes, &collection.parts)?;
                let numbers: Vec<Measured> =
                    scores.iter().map(|s| Measured::accuracy(s.probe.name(), s.accuracy)).collect();
                session.record(&about, &numbers)?;
            }
            if collection.speakers() {
                plane(session, &collection, &run, &method)?;
            }
            supervised(session, &collection, seed)?;
        }
    }
    Ok(())
}

/// The same networks, trained end to end on labels for as many epochs.
fn supervised(session: &Session, collection: &Collection, seed: u64) -> Result<()> {
    let preset = recipe::preset(collection.preset)?;
    let (train, test) = (&collection.parts.train, &collection.parts.test);
    let train = if session.small { train } else { &collection.train };
    let run: SpeechRun = session.configured(&preset, preset.train.epochs, seed)?;
    let name = format!("cpc-speech-supervised-{}", collection.dataset);
    let label = (collection.label, collection.classes);
    let (method, seconds) =
        session.train(&name, seed, |options| fit_supervised(&run, train, label, options))?;
    let accuracy = method.accuracy(test, run.windows.scale, collection.label)?;
    let about = collection.about("supervised", &run, seconds)?;
    session.record(&about, &[Measured::accuracy(collection.supervised_protocol, accuracy)])
}

/// Figure 2: mean contexts of windows of the test part.
fn plane(session: &Session, collection: &Collection, run: &SpeechRun, method: &SpeechCpc) -> Result<()> {
    let test = &collection.parts.test;
    let speakers = PLANE.0.min(collection.classes);
    let each = test.len().div_ceil(collection.classes).max(1);
    let windows = (PLANE.1 / (speakers * each)).max(1) as u64;
    let features = window_contexts(run, method, test, speakers, windows)?;
    let perplexity = 30f64.min((features.n as f64 - 1.0) / 3.0);
    let config = TsneConfig { perplexity, seed: run.train.seed, ..TsneConfig::default() };
    let found = tsne(&features, &config)?;
    let hundredths = |x: f64| (x * 100.0).round() / 100.0;
    let plane = Plane {
        dataset: collection.dataset.clone(),
        seed: run.train.seed,
        perplexity: hundredths(perplexity),
        divergence: hundredths(found.divergence),
        points: found.points.iter().map(|p| p.map(hundredths)).collect(),
        labels: features.labels,
    };
    session.draw(|figures| figures.add_plane(plane))
}

/// Figure 3 with twenty steps; in tier `small` also the phones of networks that predict fewer.
pub fn steps(session: &Session, found: &Found) -> Result<()> {
    found.need(Part::Steps)?;
    let all = collections(session, found)?;
    for collection in &all {
        for seed in session.seeds(&[0]) {
            let (run, method, _) = collection.trained(session, "cpc-figure3", (seed, STEPS), |run| {
                run.method.objective.steps = FIGURE_STEPS
            })?;
            // A batch needs several test windows, which six utterances do not have as they are.
            let test = if session.small {
                collection.parts.test.clone()
            } else {
                pieces(&collection.parts.test, run.windows.samples)?
            };
            let scores = step_scores(&run, &method, &test)?;
            let digits = |x: f64| (x * 1e4).round() / 1e4;
            let points: Vec<(f64, f64)> =
                scores.iter().zip(1..).map(|(s, k)| (f64::from(k), digits(s.above))).collect();
            println!("share of negatives below the positive, steps 1 to {FIGURE_STEPS}: {points:?}");
            let steps = Steps { dataset: collection.dataset.clone(), seed, points };
            session.draw(|figures| figures.add_steps(steps))?;
        }
    }
    let Some(timit) = all.iter().find(|c| session.small && !c.speakers()) else { return Ok(()) };
    for steps in [2, 4, 8, 12, 16] {
        let names = (format!("cpc, {steps} steps"), format!("cpc-steps{steps}"));
        ablate(session, timit, (&names.0, &names.1), STEPS, |run| {
            run.method.objective.steps = steps;
        })?;
    }
    Ok(())
}

/// Phones behind training with each of table 2's ways to take negatives, but for mixed speakers, which are table 1's. They
/// have all of its updates: the ways part late.
pub fn negatives(session: &Session, found: &Found) -> Result<()> {
    found.need(Part::Negatives)?;
    let Some(timit) = collections(session, found)?.into_iter().find(|c| !c.speakers()) else { return Ok(()) };
    let schemes = [
        ("same speaker", Scheme::SameSpeaker, true),
        ("mixed speaker, current excluded", Scheme::MixedSpeakerExcludingCurrent, false),
        ("same speaker, current excluded", Scheme::SameSpeakerExcludingCurrent, true),
        ("current sequence only", Scheme::CurrentSequence, false),
    ];
    for (title, scheme, one_speaker) in schemes {
        let name = format!("cpc-negatives-{}", title.replace(", ", "-").replace(' ', "-"));
        ablate(session, &timit, (&format!("cpc, {title}"), &name), 1, |run| {
            run.method.objective.negatives.scheme = scheme;
            run.windows.one_speaker_batches = one_speaker;
        })?;
    }
    Ok(())
}

/// One row of table 2, behind one `part`-th of table 1's updates.
fn ablate(
    session: &Session,
    collection: &Collection,
    (method, name): (&str, &str),
    part: u64,
    change: impl Fn(&mut SpeechRun),
) -> Result<()> {
    for seed in session.seeds(&[0]) {
        let (run, trained, seconds) = collection.trained(session, name, (seed, part), &change)?;
        let about = collection.about(method, &run, seconds)?;
        let scores =
            compare(&run, &trained, &[Input::Cpc], &[Probe::linear(Task::Phones)], &collection.parts)?;
        let numbers: Vec<Measured> =
            scores.iter().map(|s| Measured::accuracy(s.probe.name(), s.accuracy)).collect();
        session.record(&about, &numbers)?;
    }
    Ok(())
}
