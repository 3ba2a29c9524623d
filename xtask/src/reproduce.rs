//! `cargo xtask reproduce`: from data to tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use contrastive_core::data::{Source, Split, Subset};
use contrastive_core::eval::{Features, Protocol};
use contrastive_core::experiment::{RunOptions, features, tiers};
use contrastive_core::train::{Method, Observer, Outcome, ProbeMonitor};

use crate::baseline::SupervisedConfig;
use crate::data::{self, Images};
use crate::methods::{NAMES, Plan, prefix_of, presets};
use crate::progress::{self, Bar};
use crate::results::{self, Row};
use crate::train::{Interrupted, device, stop_flag, tell_skipped};
use crate::{cmc, cpc, curves, published, tables};

mod from_hub;
mod parts;
mod plans;

/// What every method is held against, as one of the names that can be asked for.
const REFERENCES: &str = "references";

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// Methods, `references` for what they are held against, `cpc` or a part of it (cpc-speech, cpc-steps,
    /// cpc-negatives, cpc-text, cpc-rl), a part of `cmc` (cmc-views, cmc-graph, cmc-predictive, cmc-negatives,
    /// cmc-distance, cmc-crd; cmc-video with --data); everything where none is named (CPC in tier smoke only: tier small of
    /// it needs data of its own).
    methods: Vec<String>,
    /// How much to spend.
    #[arg(long, value_enum, default_value = "smoke")]
    tier: Tier,
    /// Where the tier's data lies, instead of the embedded set or the Hugging Face cache.
    #[arg(long)]
    data: Option<String>,
    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// One seed instead of the tier's.
    #[arg(long)]
    seed: Option<u64>,
    /// Go on from the checkpoints of an interrupted call instead of starting anew.
    #[arg(long)]
    resume: bool,
    /// A tenth of the epochs: shows that everything runs, not what it reaches; so never among the results.
    #[arg(long, requires = "out")]
    quick: bool,
    /// A setting over the tier's presets: `train.precision=bf16`. Never among the results.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "out")]
    set: Vec<String>,
    /// Evaluate published weights (DINO, MoCo v3) on ImageNet at `--data`, beside their authors' numbers, instead of
    /// training; methods are then `dino`, `moco-v3` or models by name, which `--dry-run` lists.
    #[arg(long, conflicts_with_all = ["seed", "resume", "quick", "set", "only_tables"])]
    from_hub: bool,
    /// With `--from-hub`: weights that are not on the Hub, or others than the listed ones.
    #[arg(long = "weights", value_name = "NAME=PLACE", requires = "from_hub")]
    weights: Vec<String>,
    /// Only print what the tier would take: data, steps, arithmetic, memory.
    #[arg(long, conflicts_with_all = ["out", "resume"])]
    dry_run: bool,
    /// Only rewrite the tables and figures in the documentation from what was measured before.
    #[arg(long = "tables", conflicts_with_all = ["out", "data", "seed", "resume", "quick", "set"])]
    only_tables: bool,
    /// Where results and run directories go. Tables in the documentation are rewritten only without it.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Threads that prepare batches, for each rank. Has no effect on the result.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Train parts of `cpc` and `cmc` as so many ranks of this process, each on its part of every batch. Never among the
    /// results. (For methods on images: `train --ranks`.)
    #[arg(long, default_value_t = 1)]
    ranks: usize,
}

/// How much to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tier {
    /// Embedded data, minutes on two cores.
    Smoke,
    /// CIFAR-10, an hour on a CPU.
    Small,
    /// The paper's own setting.
    Paper,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Small => "small",
            Self::Paper => "paper",
        }
    }

    /// The name of its data set.
    pub(crate) fn data(self) -> &'static str {
        match self {
            Self::Smoke => "sign-digits",
            Self::Small => "cifar10",
            Self::Paper => "imagenet",
        }
    }

    /// A method's preset for this tier; in tier `paper` its first, which is the paper's own main setting.
    pub(crate) fn preset(self, method: &str) -> Result<&'static str> {
        match self {
            Self::Smoke => Ok("smoke"),
            Self::Small => Ok("cifar10-small"),
            Self::Paper => {
                let presets = presets(method)?;
                presets.first().map(|(name, _)| *name).with_context(|| format!("{method} has no presets"))
            }
        }
    }

    fn seeds(self) -> &'static [u64] {
        match self {
            Self::Small => &[0, 1, 2],
            _ => &[0],
        }
    }

    /// Training samples of each class, where not all are used.
    fn per_class(self) -> Option<usize> {
        (self == Self::Small).then_some(1000)
    }

    /// The images of the data set `name` to train and to test on.
    pub(crate) fn images(self, name: &str) -> Result<(Images, Images)> {
        let train = data::source(name, Split::Train)?;
        let test = data::source(name, Split::Test)?;
        let train: Images = match self.per_class() {
            Some(n) => Arc::new(Subset::class_balanced(train, n, 0)?),
            None => train,
        };
        Ok((train, test))
    }
}

/// What every row of a call shares.
struct Session<'a> {
    arguments: &'a Arguments,
    out: PathBuf,
    results: PathBuf,
    device: Device,
    stop: Arc<AtomicBool>,
    train: Images,
    test: Images,
    data_hash: String,
}

/// Trains, evaluates, writes.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.from_hub {
        return from_hub::run(arguments);
    }
    let tier = arguments.tier;
    let chosen: Vec<&str> = match arguments.methods.as_slice() {
        [] => {
            let own = (tier == Tier::Smoke && arguments.data.is_none()).then_some(cpc::GROUP);
            std::iter::once(REFERENCES).chain(NAMES.iter().copied()).chain(own).collect()
        }
        named => named.iter().map(String::as_str).collect(),
    };
    let known = || {
        let methods = std::iter::once(REFERENCES).chain(NAMES.iter().copied());
        methods.chain(cpc::names()).chain(cmc::names())
    };
    if let Some(unknown) = chosen.iter().find(|m| !known().any(|name| name == **m)) {
        bail!("no method `{unknown}`; known: {}", known().collect::<Vec<_>>().join(", "));
    }
    if arguments.only_tables {
        return tables::rewrite(&tables::root(), tier.name());
    }
    let (scenes, chosen) = cmc::split(&chosen);
    let (parts, mut chosen) = cpc::split(&chosen);
    if arguments.dry_run {
        if chosen.is_empty() {
            bail!("--dry-run knows what methods on images take; {} is none", arguments.methods.join(", "));
        }
        return plans::dry_run(arguments, &chosen);
    }
    if arguments.ranks != 1 {
        parts::check_ranks(arguments, &chosen)?;
    }
    let stop = stop_flag()?;
    // A folder of data is for one or the other.
    if let (false, false, Some(data)) = (chosen.is_empty(), parts.is_empty(), &arguments.data) {
        if chosen == [cpc::IMAGES] {
            println!("{}: left out: call it by itself, with its own data", cpc::IMAGES);
            chosen.clear();
        } else {
            bail!(
                "--data {data}: {} and {} need data of their own; call them one at a time",
                chosen[0],
                parts[0].name()
            );
        }
    }
    if !chosen.is_empty() {
        on_images(arguments, &chosen, &stop)?;
    }
    if chosen.is_empty() || arguments.data.is_none() {
        parts::on_scenes(arguments, &scenes, &stop)?;
    } else if let Some(part) = scenes.first() {
        println!("{}: left out: call it by itself, with its own data", part.name());
    }
    if parts.is_empty() { Ok(()) } else { parts::on_other_data(arguments, &parts, stop) }
}

/// Where results of a call go.
fn out(arguments: &Arguments) -> PathBuf {
    arguments.out.clone().unwrap_or_else(|| tables::root().join("results"))
}

/// Methods on images, and what they are held against.
fn on_images(arguments: &Arguments, chosen: &[&str], stop: &Arc<AtomicBool>) -> Result<()> {
    let tier = arguments.tier;
    let out = out(arguments);
    let path = out.join(tier.name()).join("results.json");
    let opened = open(arguments);
    let (train, test) = match opened {
        Ok(sources) => sources,
        // A row that cannot be run says why and is never filled in; what was measured before stays as it is.
        Err(error) => {
            let known = results::read(&path)?;
            let measured = |m: &str| known.iter().any(|row| row.method == m && row.value.is_some());
            let without = chosen.iter().filter(|m| **m != REFERENCES && !measured(m));
            let rows: Vec<Row> = without.map(|m| missing(m, tier, &format!("{error:#}"))).collect();
            if !rows.is_empty() {
                results::merge(&path, rows)?;
            }
            bail!("{error:#}");
        }
    };
    let data_hash = format!("{}+{}", short(&train.fingerprint()), short(&test.fingerprint()));
    let session = Session {
        arguments,
        out: out.join(tier.name()),
        results: path.clone(),
        device: device(&arguments.device)?,
        stop: stop.clone(),
        train,
        test,
        data_hash,
    };
    println!(
        "tier {}: {} ({} training, {} test samples)",
        tier.name(),
        session.train.name(),
        session.train.len(),
        session.test.len()
    );
    let peers = tables::peers_beside(&path)?;
    let mut rows = Vec::new();
    for method in chosen {
        match *method {
            REFERENCES => session.references()?,
            method => session.method(method)?,
        }
        rows = results::read(&path)?;
        println!("\n{}", results::markdown(&rows, &peers, &[method]));
    }
    if arguments.out.is_none() {
        tables::document(&tables::root(), tier.name(), &rows)?;
    }
    println!("{}", path.display());
    Ok(())
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}

fn open(arguments: &Arguments) -> Result<(Images, Images)> {
    let tier = arguments.tier;
    let name = arguments.data.as_deref().unwrap_or(tier.data());
    if tier == Tier::Paper && arguments.data.is_none() {
        bail!("tier paper needs --data DIR with the folders `train` and `val` of ImageNet (image-net.org)");
    }
    tier.images(name)
}

fn missing(method: &str, tier: Tier, why: &str) -> Row {
    Row {
        method: method.into(),
        recipe: tier.preset(method).unwrap_or(tier.name()).into(),
        dataset: tier.data().into(),
        protocol: Protocol::all()[0].name().into(),
        metric: "top1".into(),
        unit: "%".into(),
        value: None,
        paper: None,
        seed: 0,
        seconds: 0.0,
        config_hash: String::new(),
        data_hash: String::new(),
        version: version(),
        device: String::new(),
        missing: Some(why.into()),
    }
}

/// Top-1 of every protocol, and what CPC's table 4 has.
fn is_recorded(method: &str, protocol: Protocol, metric: &str) -> bool {
    metric == "top1" || (metric == "top5" && method == cpc::IMAGES && protocol == Protocol::LinearSgdV1)
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

impl Session<'_> {
    fn seeds(&self) -> Vec<u64> {
        self.arguments.seed.map_or_else(|| self.arguments.tier.seeds().to_vec(), |seed| vec![seed])
    }

    /// What every method is held against: pixels, the tier's network with random weights, and the same trained with
    /// labels.
    fn references(&self) -> Result<()> {
        for (i, seed) in self.seeds().into_iter().enumerate() {
            let plan = self.supervised(seed)?;
            if i == 0 {
                let (train, test) = self.features(plan.eval(), |x| Ok(x.flatten_from(1)?))?;
                self.record("pixels", &plan, 0.0, &train, &test)?;
            }
            let untrained = plan.untrained(&self.device)?;
            let (train, test) = self.features(plan.eval(), |x| untrained.features(x))?;
            self.record("random", &plan, 0.0, &train, &test)?;
            self.trained(&plan)?;
        }
        Ok(())
    }

    /// Trains and measures a method for every seed. What is measured stays measured if the rest is interrupted.
    fn method(&self, method: &str) -> Result<()> {
        self.seeds().into_iter().try_for_each(|seed| self.trained(&self.plan(method, seed)?))
    }

    /// The run with labels in the tier's budget.
    fn supervised(&self, seed: u64) -> Result<Plan> {
        let backbone = tiers::narrow_resnet().into();
        let method = SupervisedConfig { backbone, classes: self.train.classes() };
        let mut run = match self.arguments.tier {
            Tier::Smoke => tiers::smoke(method, 1),
            Tier::Small => tiers::cifar10_small(method, 1),
            Tier::Paper => bail!("tier paper has no references: the papers report their own"),
        };
        run.train.seed = seed;
        if self.arguments.quick {
            run.train.epochs = (run.train.epochs / 10).max(1);
        }
        Plan::checked(run)
    }

    fn plan(&self, method: &str, seed: u64) -> Result<Plan> {
        let preset = self.arguments.tier.preset(method)?;
        let mut set = self.arguments.set.clone();
        set.push(format!("train.seed={seed}"));
        if self.arguments.quick {
            let epochs = Plan::new(method, preset, None, &[])?.epochs();
            set.push(format!("train.epochs={}", (epochs / 10).max(1)));
        }
        Plan::new(method, preset, None, &set)
    }

    /// Features of both sets.
    fn features(
        &self,
        transform: &contrastive_core::augment::EvalTransform,
        encode: impl Fn(&Tensor) -> contrastive_core::Result<Tensor>,
    ) -> contrastive_core::Result<(Features, Features)> {
        let of = |source: &Images| {
            let (features, skipped) =
                features(&encode, source.clone(), transform, &self.device, self.arguments.workers)?;
            tell_skipped(&skipped);
            Ok::<_, contrastive_core::Error>(features)
        };
        Ok((of(&self.train)?, of(&self.test)?))
    }

    /// Trains a plan in its run directory and measures it.
    fn trained(&self, plan: &Plan) -> Result<()> {
        let dir = self.out.join("runs").join(format!("{}-seed{}", plan.name(), plan.seed()));
        if !self.arguments.resume && dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        let mut bar = Bar::new(plan.name())?;
        let mut probe = ProbeMonitor::new(self.train.classes(), plan.seed());
        let mut curve = progress::Curve {
            protocol: Protocol::KnnK200T01V1,
            every: (plan.epochs() / 4).max(1),
            extract: Box::new(|method: &dyn Method| self.features(plan.eval(), |x| method.features(x))),
        };
        let observers: Vec<&mut dyn Observer> = vec![&mut bar, &mut probe, &mut curve];
        let options = RunOptions {
            resume: self.arguments.resume,
            device: self.device.clone(),
            workers: self.arguments.workers,
            stop: self.stop.clone(),
            observers,
            ..RunOptions::new(&dir)
        };
        let (method, outcome) = plan.fit(self.train.clone(), options)?;
        drop(curve);
        drop(bar);
        if outcome == Outcome::Interrupted || self.stop.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        let (train, test) = self.features(plan.eval(), |x| method.features(x))?;
        let (curve, seconds) = curves::Curve::read(plan.name(), plan.seed(), &dir)?;
        curves::merge(&self.results.with_file_name("curves.json"), vec![curve])?;
        if plan.name() == cpc::IMAGES {
            self.units(&dir, method.as_ref())?;
        }
        self.record(plan.name(), plan, seconds, &train, &test)
    }

    /// CPC's figure 5, in the directory of the run; of the embedded images also in the documentation.
    fn units(&self, run: &Path, method: &dyn Method) -> Result<()> {
        let file = run.join("units.png");
        cpc::units::draw(run, method, self.test.clone(), &self.device, self.arguments.workers, &file)?;
        println!("{}", file.display());
        let arguments = self.arguments;
        if arguments.tier == Tier::Smoke && arguments.data.is_none() && arguments.out.is_none() {
            let shown = tables::root().join("docs/figures/cpc-units-smoke.png");
            std::fs::copy(&file, &shown).with_context(|| shown.display().to_string())?;
        }
        Ok(())
    }

    /// Measures every protocol on a pair of feature sets.
    fn record(
        &self,
        method: &str,
        plan: &Plan,
        seconds: f64,
        train: &Features,
        test: &Features,
    ) -> Result<()> {
        let mut rows = Vec::new();
        for protocol in Protocol::all() {
            let metrics = protocol.evaluate(train, test)?;
            for metric in metrics.into_iter().filter(|m| is_recorded(method, *protocol, &m.name)) {
                let value = 100.0 * metric.value;
                println!("{method:<12} {protocol:<18} {} {value:5.1} %", metric.name);
                rows.push(Row {
                    method: method.into(),
                    recipe: self.arguments.tier.preset(method).unwrap_or(self.arguments.tier.name()).into(),
                    dataset: self.test.name().into(),
                    protocol: protocol.name().into(),
                    metric: metric.name,
                    unit: "%".into(),
                    value: Some((value * 100.0).round() / 100.0),
                    paper: self.paper(method, *protocol)?,
                    seed: plan.seed(),
                    seconds: seconds.round(),
                    config_hash: plan.hash()?,
                    data_hash: self.data_hash.clone(),
                    version: version(),
                    device: self.arguments.device.clone(),
                    missing: None,
                });
            }
        }
        results::merge(&self.results, rows)?;
        Ok(())
    }

    /// What the paper says, where this call runs the paper's own setting.
    fn paper(&self, method: &str, protocol: Protocol) -> Result<Option<f64>> {
        if self.arguments.tier != Tier::Paper || protocol != Protocol::LinearSgdV1 {
            return Ok(None);
        }
        let page = tables::page(method);
        let preset =
            format!("{}{}", prefix_of(method).unwrap_or_default(), self.arguments.tier.preset(method)?);
        let tables = published::read(&tables::root().join("results/published").join(format!("{page}.json")))?;
        let linear = tables.iter().filter(|table| table.metric.contains("linear"));
        let row = linear
            .flat_map(|table| &table.rows)
            .find(|row| row.preset.as_ref() == Some(&preset) && row.set.is_empty());
        Ok(row.map(|row| row.value))
    }
}
