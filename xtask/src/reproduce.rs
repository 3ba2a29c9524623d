//! `cargo xtask reproduce`: from data to tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use contrastive_core::data::{Source, Split, Subset};
use contrastive_core::eval::{Features, Protocol};
use contrastive_core::experiment::{RunOptions, features};
use contrastive_core::train::{Method, Observer, Outcome, ProbeMonitor};

use crate::data::{self, Images};
use crate::figures::{self, Curve as Line};
use crate::methods::{NAMES, Plan};
use crate::progress::{Bar, Curve};
use crate::results::{self, Row};
use crate::tables;
use crate::train::{Interrupted, device, stop_flag, tell_skipped};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// Methods or tables; everything where none is named.
    tables: Vec<String>,
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
    /// A setting over the tier's preset: `train.precision=bf16`. Only the method is run then, and never among the
    /// results.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "out")]
    set: Vec<String>,
    /// Only rewrite the tables and figures in the documentation from what was measured before.
    #[arg(long = "tables", conflicts_with_all = ["out", "data", "seed", "resume", "quick", "set"])]
    only_tables: bool,
    /// Where results and run directories go. Tables in the documentation are rewritten only without it.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Threads that prepare batches. Has no effect on the result.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

/// How much to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
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

    /// The data set and the method's preset.
    fn setting(self) -> (&'static str, &'static str) {
        match self {
            Self::Smoke => ("sign-digits", "smoke"),
            Self::Small => ("cifar10", "cifar10-small"),
            Self::Paper => ("imagenet", "imagenet"),
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
    let tier = arguments.tier;
    let methods: Vec<&str> = match arguments.tables.as_slice() {
        [] => NAMES.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = methods.iter().find(|m| !NAMES.contains(m)) {
        bail!("no table or method `{unknown}`; known: {}", NAMES.join(", "));
    }
    if arguments.only_tables {
        return tables::rewrite(&tables::root(), tier.name(), &methods);
    }
    let out = arguments.out.clone().unwrap_or_else(|| tables::root().join("results"));
    let path = out.join(tier.name()).join("results.json");
    let opened = open(arguments);
    let (train, test) = match opened {
        Ok(sources) => sources,
        // A row that cannot be run says why and is never filled in; what was measured before stays as it is.
        Err(error) => {
            let known = results::read(&path)?;
            let measured = |m: &str| known.iter().any(|row| row.method == m && row.value.is_some());
            let without = methods.iter().filter(|method| !measured(method));
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
        stop: stop_flag()?,
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
    for method in &methods {
        let new = session.table(method)?;
        rows = results::merge(&path, new)?;
        println!("\n{}", results::markdown(&rows, &peers, method));
    }
    if arguments.out.is_none() {
        tables::document(&tables::root(), tier.name(), &methods, &rows)?;
    }
    println!("{}", path.display());
    Ok(())
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}

fn open(arguments: &Arguments) -> Result<(Images, Images)> {
    let tier = arguments.tier;
    let name = arguments.data.as_deref().unwrap_or(tier.setting().0);
    if tier == Tier::Paper && arguments.data.is_none() {
        bail!("tier paper needs --data DIR with the folders `train` and `val` of ImageNet (image-net.org)");
    }
    let train = data::source(name, Split::Train)?;
    let test = data::source(name, Split::Test)?;
    let train: Images = match tier.per_class() {
        Some(n) => Arc::new(Subset::class_balanced(train, n, 0)?),
        None => train,
    };
    Ok((train, test))
}

fn missing(method: &str, tier: Tier, why: &str) -> Row {
    Row {
        table: method.into(),
        method: method.into(),
        recipe: tier.setting().1.into(),
        dataset: tier.setting().0.into(),
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

fn version() -> String {
    env!("CARGO_PKG_VERSION").into()
}

impl Session<'_> {
    /// All rows of one method's table.
    fn table(&self, method: &str) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        let seeds = match self.arguments.seed {
            Some(seed) => vec![seed],
            None => self.arguments.tier.seeds().to_vec(),
        };
        let mut curves = Vec::new();
        for (i, &seed) in seeds.iter().enumerate() {
            let plan = self.plan(method, seed)?;
            let beside = self.arguments.set.is_empty();
            if i == 0 && beside {
                let (train, test) = self.features(plan.eval(), |x| Ok(x.flatten_from(1)?))?;
                self.rows(&mut rows, method, "pixels", &plan, 0.0, &train, &test)?;
            }
            if beside {
                let untrained = plan.untrained(&self.device)?;
                let (train, test) = self.features(plan.eval(), |x| untrained.features(x))?;
                self.rows(&mut rows, method, "random", &plan, 0.0, &train, &test)?;
            }
            curves.push(self.trained(&mut rows, method, &plan)?);
            // What is measured stays measured if the rest is interrupted.
            results::merge(&self.results, rows.clone())?;
            if i == 0 && beside {
                let supervised = plan.supervised(self.train.classes());
                curves.push(self.trained(&mut rows, method, &supervised)?);
            }
        }
        self.figure(method, &curves)?;
        Ok(rows)
    }

    fn plan(&self, method: &str, seed: u64) -> Result<Plan> {
        let preset = self.arguments.tier.setting().1;
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

    /// Trains a plan in its run directory, measures it, and gives the directory.
    fn trained(&self, rows: &mut Vec<Row>, table: &str, plan: &Plan) -> Result<(String, PathBuf)> {
        let name = format!("{table}-{}-seed{}", plan.name(), plan.seed());
        let dir = self.out.join("runs").join(&name);
        if !self.arguments.resume && dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        let mut bar = Bar::new(plan.name())?;
        let mut probe = ProbeMonitor::new(self.train.classes(), plan.seed());
        let mut curve = Curve {
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
        let seconds = Metrics::read(&dir)?.seconds;
        self.rows(rows, table, plan.name(), plan, seconds, &train, &test)?;
        Ok((plan.name().to_string(), dir))
    }

    /// Measures every protocol on a pair of feature sets.
    #[allow(clippy::too_many_arguments, reason = "a row has that many sources")]
    fn rows(
        &self,
        rows: &mut Vec<Row>,
        table: &str,
        method: &str,
        plan: &Plan,
        seconds: f64,
        train: &Features,
        test: &Features,
    ) -> Result<()> {
        for protocol in Protocol::all() {
            let metrics = protocol.evaluate(train, test)?;
            for metric in metrics.into_iter().filter(|m| m.name == "top1") {
                let value = 100.0 * metric.value;
                println!("{method:<12} {protocol:<18} {value:5.1} %");
                rows.push(Row {
                    table: table.into(),
                    method: method.into(),
                    recipe: self.arguments.tier.setting().1.into(),
                    dataset: self.test.name().into(),
                    protocol: protocol.name().into(),
                    metric: metric.name,
                    unit: "%".into(),
                    value: Some((value * 100.0).round() / 100.0),
                    paper: self.paper(table, method, *protocol),
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
        Ok(())
    }

    /// What the paper says, where this call runs the paper's own setting.
    fn paper(&self, table: &str, method: &str, protocol: Protocol) -> Option<f64> {
        let own = self.arguments.tier == Tier::Paper && method == table && protocol == Protocol::LinearSgdV1;
        own.then(|| crate::methods::published(method)).flatten()
    }

    /// Loss and kNN curves of the trained methods.
    fn figure(&self, table: &str, runs: &[(String, PathBuf)]) -> Result<()> {
        let (mut losses, mut accuracies) = (Vec::new(), Vec::new());
        for (name, dir) in runs {
            let metrics = Metrics::read(dir)?;
            losses.push(Line { name: name.clone(), points: metrics.loss });
            accuracies.push(Line { name: name.clone(), points: metrics.knn });
        }
        let path = self.out.join(format!("{table}.svg"));
        figures::lines(
            &path,
            &[("loss", "epoch", "loss", losses), ("kNN top-1 (k = 200)", "epoch", "%", accuracies)],
        )
    }
}

/// The curves of a run directory.
#[derive(Default)]
struct Metrics {
    loss: Vec<(f64, f64)>,
    knn: Vec<(f64, f64)>,
    seconds: f64,
}

impl Metrics {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut metrics = Self::default();
        let knn = format!("{}/top1", Protocol::KnnK200T01V1);
        for line in text.lines() {
            let value: serde_json::Value =
                serde_json::from_str(line).with_context(|| path.display().to_string())?;
            if value["kind"] != "epoch" {
                continue;
            }
            let epoch = value["epoch"].as_f64().unwrap_or_default() + 1.0;
            metrics.seconds += value["time"]["seconds"].as_f64().unwrap_or_default();
            if let Some(loss) = value["values"]["loss"].as_f64() {
                metrics.loss.push((epoch, loss));
            }
            if let Some(top1) = value["values"][&knn].as_f64() {
                metrics.knn.push((epoch, 100.0 * top1));
            }
        }
        Ok(metrics)
    }
}
