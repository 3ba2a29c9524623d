//! Experiments on furnished rooms, or on pictures with depth at hand: the number of views, graphs, and prediction against
//! contrast (section 4.4 of the paper). Encoders are trained without labels, frozen, and asked for the label of every
//! pixel.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::Device;
use contrastive_cmc::Graph;
use contrastive_cmc::loss::Distance;
use contrastive_cmc::views::segment::{self, Subject};
use contrastive_cmc::views::{Scenes, Task, View, ViewsCmc, ViewsRun, folder, recipe, rooms, run};
use contrastive_core::augment::{ColorSpace, EvalTransform, Interpolation};
use contrastive_core::data::{Source, Split, embedded};
use contrastive_core::eval::{Protocol, metric};
use contrastive_core::experiment::features;
use contrastive_core::train::Method;

use super::epochs;
use crate::cpc::{About, Measured, Session};

/// Rooms that encoders see, those of them whose labels the classifiers see, and rooms that are tested.
const ROOMS: [usize; 3] = [480, 160, 160];
/// Side of the pictures in pixels; windows are smaller.
const SIDE: usize = 40;
/// The runs of every experiment: minutes. Calls with `--seed` add those of others beside it.
const SEEDS: [u64; 1] = [0];

/// An encoder that has been trained, or not.
struct Trained {
    method: ViewsCmc,
    run: ViewsRun,
    seconds: f64,
}

/// The scenes, and what has been trained on them in this call.
pub struct Lab<'a> {
    session: &'a Session,
    /// The views of the scenes, the core view first.
    views: Vec<View>,
    scenes: Arc<Scenes>,
    labelled: Arc<Scenes>,
    test: Scenes,
    data_hash: String,
    trained: HashMap<(String, u64), Trained>,
}

impl<'a> Lab<'a> {
    /// Renders the rooms, or reads the pictures of a session that has data.
    pub fn new(session: &'a Session) -> Result<Self> {
        let (scenes, labelled, test) = match &session.data {
            Some(root) => pictures(root)?,
            None => {
                let [all, labelled, test] = ROOMS;
                let scenes = Arc::new(rooms::rooms(Split::Train, all, SIDE)?);
                let labelled = Arc::new(scenes.first(labelled)?);
                (scenes, labelled, rooms::rooms(Split::Test, test, SIDE)?)
            }
        };
        let short = |scenes: &Scenes| scenes.fingerprint().chars().take(16).collect::<String>();
        let data_hash = format!("{}+{}", short(&scenes), short(&test));
        let views = recipe::views().into_iter().filter(|view| scenes.views().contains(view)).collect();
        Ok(Self { session, views, scenes, labelled, test, data_hash, trained: HashMap::new() })
    }

    /// Segmentation from L by how many views L was contrasted with.
    pub fn by_number(&mut self) -> Result<()> {
        let all = self.views.clone();
        for seed in self.session.seeds(&SEEDS) {
            self.untrained("views-0 random", &all[..1], seed, &["L"])?;
            for count in 1..=all.len() {
                let name = format!("views-{count} {}", names(&all[..count]));
                let task = contrast(Graph::Core)?;
                self.measure(&name, &all[..count], task, seed, &["L"])?;
            }
            self.supervised(&format!("views-{} supervised", all.len() + 1), &all[0], seed)?;
        }
        Ok(())
    }

    /// Segmentation from each view, trained with all in one graph or the other.
    pub fn by_graph(&mut self) -> Result<()> {
        let all = self.views.clone();
        let each: Vec<&str> = all.iter().map(|view| view.name.as_str()).collect();
        for seed in self.session.seeds(&SEEDS) {
            self.untrained("graph random", &all, seed, &each)?;
            for (name, graph) in [("graph core", Graph::Core), ("graph full", Graph::Full)] {
                self.measure(name, &all, contrast(graph)?, seed, &each)?;
            }
            for view in &all {
                self.supervised(&format!("graph supervised, {}", view.name), view, seed)?;
            }
        }
        Ok(())
    }

    /// The encoder of L, trained to predict another view or to be contrasted with it.
    pub fn against_prediction(&mut self) -> Result<()> {
        let all = self.views.clone();
        for seed in self.session.seeds(&SEEDS) {
            self.untrained("target none, random", &all[..1], seed, &["L"])?;
            for view in &all[1..] {
                let pair = [all[0].clone(), view.clone()];
                let of = |how: &str| format!("target {}, {how}", view.name);
                self.measure(&of("contrastive"), &pair, contrast(Graph::Core)?, seed, &["L"])?;
                for (how, distance) in [("L1", Distance::L1), ("L2", Distance::L2)] {
                    self.measure(
                        &of(&format!("predictive {how}")),
                        &pair,
                        Task::Predict { distance },
                        seed,
                        &["L"],
                    )?;
                }
                if view.name == "ab" {
                    let task = Task::PredictCells { cells: 8 };
                    self.measure(&of("predictive cells"), &pair, task, seed, &["L"])?;
                }
            }
        }
        Ok(())
    }

    fn configured(&self, views: &[View], task: Task, seed: u64) -> Result<ViewsRun> {
        let mut base = recipe::preset("rooms-smoke")?;
        (base.method.views, base.method.task) = (views.to_vec(), task);
        // As many steps as on the rooms, whatever there is.
        base.train.batch_size = base.train.batch_size.min(self.scenes.len());
        base.train.epochs = base.train.epochs * ROOMS[0] as u64 / self.scenes.len().max(1) as u64;
        self.session.configured(&base, epochs(self.session, base.train.epochs), seed)
    }

    /// Trains once in a call; what another experiment has trained is taken from there.
    fn train(&mut self, views: &[View], task: Task, seed: u64) -> Result<&Trained> {
        let run = self.configured(views, task, seed)?;
        let key = (run.hash()?, seed);
        if !self.trained.contains_key(&key) {
            let name = format!("cmc-views-{}", key.0);
            let scenes = self.scenes.clone();
            let (method, seconds) =
                self.session.train(&name, seed, |options| run::fit(&run, scenes.clone(), options))?;
            self.trained.insert(key.clone(), Trained { method, run, seconds });
        }
        self.trained.get(&key).context("what was trained")
    }

    fn untrained(&mut self, name: &str, views: &[View], seed: u64, shown: &[&str]) -> Result<()> {
        let run = self.configured(views, contrast(Graph::Core)?, seed)?;
        let method = ViewsCmc::new(run.method.clone(), seed, &Device::Cpu)?;
        self.record(name, &Trained { method, run, seconds: 0.0 }, shown)
    }

    fn measure(&mut self, name: &str, views: &[View], task: Task, seed: u64, shown: &[&str]) -> Result<()> {
        self.train(views, task, seed)?;
        let key = (self.configured(views, task, seed)?.hash()?, seed);
        let trained = self.trained.get(&key).context("what was trained")?;
        self.record(name, trained, shown)
    }

    /// Encoder and decoder trained with the labels that the classifiers see.
    fn supervised(&mut self, name: &str, view: &View, seed: u64) -> Result<()> {
        let task = Task::Label { classes: self.test.pixel_classes() };
        let mut run = self.configured(std::slice::from_ref(view), task, seed)?;
        // As many steps as without labels.
        run.train.epochs *= (self.scenes.len() / self.labelled.len()) as u64;
        let scenes = self.labelled.clone();
        let dir = format!("cmc-views-{}", run.hash()?);
        let (method, seconds) =
            self.session.train(&dir, seed, |options| run::fit(&run, scenes.clone(), options))?;
        let (stages, subject) = (&method.nets()[0].stages, self.subject(&self.test, &view.name, &run)?);
        let decoder = method.decoder().context("a decoder")?;
        let metrics = segment::decoded(stages, decoder, subject)?;
        let about = self.about(name, &run, seconds)?;
        self.session.record(&about, &numbers(segment::DECODED, &metrics))
    }

    fn subject<'s>(&self, scenes: &'s Scenes, view: &str, run: &ViewsRun) -> Result<Subject<'s>> {
        Ok(Subject { scenes, column: scenes.column(view)?, window: run.window })
    }

    fn about(&self, name: &str, run: &ViewsRun, seconds: f64) -> Result<About> {
        Ok(About {
            method: name.to_string(),
            recipe: "rooms-smoke".into(),
            dataset: self.test.name().to_string(),
            data_hash: self.data_hash.clone(),
            config_hash: run.hash()?,
            seed: run.train.seed,
            seconds,
        })
    }

    /// Measures the encoders of some views by their pixels, and that of L on digits, which it has never seen.
    fn record(&self, name: &str, trained: &Trained, shown: &[&str]) -> Result<()> {
        let Trained { method, run, seconds } = trained;
        for view in shown {
            let place = run.method.views.iter().position(|own| own.name == *view).context("a view")?;
            let stages = &method.nets()[place].stages;
            let [train, test] = [self.labelled.as_ref(), &self.test];
            let metrics =
                segment::evaluate(stages, self.subject(train, view, run)?, self.subject(test, view, run)?)?;
            let own = if shown.len() > 1 { format!("{name}, {view}") } else { name.to_string() };
            self.session.record(&self.about(&own, run, *seconds)?, &numbers(segment::PROTOCOL, &metrics))?;
        }
        if shown == ["L"] && self.session.data.is_none() {
            let (train, test) = (embedded::sign_digits(Split::Train)?, embedded::sign_digits(Split::Test)?);
            let of = |source: contrastive_core::data::InMemory| -> Result<_> {
                let encode = |x: &candle_core::Tensor| method.features(&x.narrow(1, 0, 1)?.contiguous()?);
                Ok(features(encode, source, &lab(), &Device::Cpu, self.session.workers)?.0)
            };
            let (name_of, hash) = (test.name().to_string(), test.fingerprint());
            let metrics = Protocol::LinearLbfgsV1.evaluate(&of(train)?, &of(test)?)?;
            let top1 = metric(&metrics, "top1").context("top1")?;
            let digits = About {
                dataset: name_of,
                data_hash: hash.chars().take(16).collect(),
                ..self.about(name, run, *seconds)?
            };
            self.session.record(&digits, &[Measured::accuracy(Protocol::LinearLbfgsV1.name(), top1)])?;
        }
        Ok(())
    }
}

/// Those that encoders see, those that classifiers see, and those that are tested, of `DATA/train` and `DATA/test`, each a
/// folder of aligned pictures.
fn pictures(root: &Path) -> Result<(Arc<Scenes>, Arc<Scenes>, Scenes)> {
    let read = |part: &str| folder::rgbd(&root.join(part), 256);
    let (train, test) = (read("train")?, read("test")?);
    let labels = [&train, &test].into_iter().flat_map(|part| part.scenes()).filter_map(|s| s.labels.as_ref());
    let classes = labels.flatten().max().map_or(1, |label| usize::from(*label) + 1);
    let name = root.file_name().unwrap_or_default().to_string_lossy();
    let of = |scenes: &Scenes, part: &str| {
        Scenes::new(&format!("{name}-{part}"), scenes.views().to_vec(), scenes.scenes().to_vec(), classes)
    };
    let train = Arc::new(of(&train, "train")?);
    Ok((train.clone(), train, of(&test, "test")?))
}

/// L as the rooms have it, for images.
pub(super) fn lab() -> EvalTransform {
    EvalTransform {
        resize: None,
        crop: None,
        interpolation: Interpolation::Bilinear,
        color: ColorSpace::Lab,
        mean: vec![50.0, 6.025, -6.6895],
        std: vec![50.0, 92.208, 101.1675],
    }
}

/// The preset's contrastive task over a graph.
fn contrast(graph: Graph) -> Result<Task> {
    match recipe::preset("rooms-smoke")?.method.task {
        Task::Contrast { temperature, between, .. } => Ok(Task::Contrast { temperature, graph, between }),
        other => Ok(other),
    }
}

fn names(views: &[View]) -> String {
    views.iter().map(|view| view.name.as_str()).collect::<Vec<_>>().join("+")
}

fn numbers(protocol: &str, metrics: &[contrastive_core::eval::Metric]) -> Vec<Measured> {
    let number = |metric: &contrastive_core::eval::Metric| Measured {
        protocol: protocol.to_string(),
        metric: if metric.name == "miou" { "miou" } else { "pixel-accuracy" },
        unit: "%",
        value: 100.0 * metric.value,
    };
    metrics.iter().map(number).collect()
}
