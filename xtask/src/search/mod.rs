//! `cargo xtask search`: what is near what among embeddings.

mod duplicates;
mod page;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use contrastive_core::augment::Image;
use contrastive_core::data::Source;
use contrastive_core::eval::{Features, Neighbour, TsneConfig, nearest, tsne};
use contrastive_core::rng::{Key, Purpose};

use crate::embed::{About, Choice, Portion, Rows, embed_all, images};
use crate::results::write_atomic;

use page::{Page, sheets};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// What is searched: a `.safetensors` file of `cargo xtask embed`.
    #[arg(long)]
    index: PathBuf,
    /// What is looked for: an image, a folder, a list, or recordings; embedded by the network of the index.
    #[arg(long)]
    query: Option<String>,
    /// The run whose network it is.
    #[arg(long, conflicts_with = "weights")]
    run: Option<PathBuf>,
    /// Or its weights, as in `cargo xtask embed`.
    #[arg(long)]
    weights: Option<String>,
    /// Attention heads of weights that do not tell.
    #[arg(long, requires = "weights")]
    heads: Option<usize>,
    /// A sample of the index by its name, instead of a query; may be named several times.
    #[arg(long, value_name = "NAME")]
    like: Vec<String>,
    /// Neighbours.
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Print one class for each query instead of its neighbours: the most among them, by weight `exp(cos / 0.07)`.
    #[arg(long)]
    classify: bool,
    /// Groups of nearly equal samples of the index: pairs with at least this cosine (`0.98`) belong together.
    #[arg(long, value_name = "COSINE")]
    duplicates: Option<f32>,
    /// A page with the samples of the index in the plane, one HTML file.
    #[arg(long, value_name = "HTML")]
    map: Option<PathBuf>,
    /// The images of the index, for the thumbnails of the page: what `cargo xtask embed` was given.
    #[arg(long)]
    data: Option<String>,
    /// The part of parquet files and of sets by name that was embedded.
    #[arg(long, value_enum, default_value = "train")]
    split: Portion,
    /// Samples on the page at most, drawn with a fixed seed. Time grows with their square.
    #[arg(long, default_value_t = 2000)]
    points: usize,
    /// Side of a thumbnail in pixels.
    #[arg(long, default_value_t = 48)]
    thumb: usize,
    /// Names the streams of the map.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Samples of a forward pass.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads that prepare batches.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

/// Searches.
pub fn run(arguments: &Arguments) -> Result<()> {
    print!("{}", text(arguments)?);
    Ok(())
}

/// What the call prints.
fn text(arguments: &Arguments) -> Result<String> {
    let asked = arguments.query.is_some() || !arguments.like.is_empty();
    if !asked && arguments.duplicates.is_none() && arguments.map.is_none() {
        bail!("one of --query, --like, --duplicates and --map is needed");
    }
    let (mut rows, about) = Rows::open(&arguments.index)?;
    rows.normalize();
    let index = features(&rows);
    let mut out = String::new();
    if asked {
        let (queries, own) = queries(arguments, &rows, &about)?;
        // A sample of the index is not its own neighbour.
        let near = nearest(&index, &features(&queries), arguments.k.max(1) + usize::from(!own.is_empty()));
        for (i, mut near) in near.into_iter().enumerate() {
            near.retain(|n| own.get(i) != Some(&(n.index as usize)));
            near.truncate(arguments.k.max(1));
            if arguments.classify {
                let (class, share) = vote(&near, &rows)?;
                let _ = writeln!(out, "{}\t{}\t{share:.3}", queries.names[i], class_name(&about, class));
                continue;
            }
            for (rank, n) in near.iter().enumerate() {
                let (name, label) = (&rows.names[n.index as usize], rows.labels[n.index as usize]);
                let class = class_name(&about, label);
                let (rank, query) = (rank + 1, &queries.names[i]);
                let _ = writeln!(out, "{query}\t{rank}\t{:.4}\t{name}\t{class}", n.similarity);
            }
        }
    }
    if let Some(least) = arguments.duplicates {
        if !(-1.0..=1.0).contains(&least) {
            bail!("--duplicates {least}: a cosine is between -1 and 1");
        }
        for (i, group) in duplicates::groups(&index, least).into_iter().enumerate() {
            for &member in &group {
                let cosine: f32 = index.row(group[0]).iter().zip(index.row(member)).map(|(a, b)| a * b).sum();
                let _ = writeln!(out, "{}\t{cosine:.4}\t{}", i + 1, rows.names[member]);
            }
        }
    }
    if let Some(path) = &arguments.map {
        map(arguments, &rows, &about).and_then(|html| write_atomic(path, &html))?;
        let _ = writeln!(out, "{}", path.display());
    }
    Ok(out)
}

fn features(rows: &Rows) -> Features {
    Features { data: rows.data.clone(), n: rows.len(), dim: rows.dim, labels: vec![0; rows.len()] }
}

/// What is looked for, of unit length, and the places of those that are of the index.
fn queries(arguments: &Arguments, rows: &Rows, about: &About) -> Result<(Rows, Vec<usize>)> {
    let Some(query) = &arguments.query else {
        let mut own = Vec::new();
        for name in &arguments.like {
            let found = rows.names.iter().position(|known| known == name);
            own.push(found.with_context(|| format!("{}: has no `{name}`", arguments.index.display()))?);
        }
        return Ok((rows.select(&own), own));
    };
    let choice = Choice {
        run: arguments.run.as_deref(),
        weights: arguments.weights.as_deref(),
        heads: arguments.heads,
        device: &arguments.device,
        batch: arguments.batch,
        workers: arguments.workers,
    };
    let (mut queries, whose) = embed_all(choice, query)?;
    if (&whose.weights, &whose.preprocessing) != (&about.weights, &about.preprocessing) {
        bail!(
            "{}: was made with other weights or another preprocessing ({}) than {} has",
            arguments.index.display(),
            about.model,
            whose.model
        );
    }
    queries.normalize();
    Ok((queries, Vec::new()))
}

/// As in `knn-k20-t0.07-v1`.
const TEMPERATURE: f64 = 0.07;

/// The class with the largest sum of weights, and its share of all; of equal sums the lower class.
fn vote(near: &[Neighbour], rows: &Rows) -> Result<(i64, f64)> {
    let mut sums: HashMap<i64, f64> = HashMap::new();
    let labelled = near.iter().filter(|n| rows.labels[n.index as usize] >= 0);
    for n in labelled {
        *sums.entry(rows.labels[n.index as usize]).or_default() +=
            (f64::from(n.similarity) / TEMPERATURE).exp();
    }
    let all: f64 = sums.values().sum();
    let best = sums.into_iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
    let (class, sum) = best.context("--classify needs an index with classes")?;
    Ok((class, sum / all))
}

fn class_name(about: &About, label: i64) -> String {
    let name = usize::try_from(label).ok().and_then(|label| about.classes.get(label));
    match name {
        Some(name) => name.clone(),
        None if label < 0 => String::new(),
        None => label.to_string(),
    }
}

/// Neighbours that the page shows.
const SHOWN: usize = 12;

/// The page.
fn map(arguments: &Arguments, rows: &Rows, about: &About) -> Result<String> {
    let mut order =
        Key::new(arguments.seed, Purpose::Eval).name("search.map").stream().permutation(rows.len());
    order.truncate(arguments.points.max(1));
    order.sort_unstable();
    let some = rows.select(&order);
    if some.len() < 4 {
        bail!("{}: a map needs four samples or more", arguments.index.display());
    }
    if !(8..=256).contains(&arguments.thumb) {
        bail!("--thumb {}: between 8 and 256 pixels", arguments.thumb);
    }
    let features = features(&some);
    let perplexity = 30f64.min((some.len() - 1) as f64 / 3.0);
    let plane = tsne(&features, &TsneConfig { perplexity, seed: arguments.seed, ..TsneConfig::default() })?;
    let without = |(i, near): (usize, Vec<Neighbour>)| -> Vec<Neighbour> {
        near.into_iter().filter(|n| n.index as usize != i).take(SHOWN).collect()
    };
    let near = nearest(&features, &features, SHOWN + 1).into_iter().enumerate().map(without).collect();
    let sheets = match &arguments.data {
        None => Vec::new(),
        Some(place) => {
            let images = images(place, arguments.split)?;
            sheets(images.as_ref(), &places(images.as_ref(), &some, arguments)?, arguments.thumb)?
        }
    };
    let part = if some.len() < rows.len() { format!(" of {}", rows.len()) } else { String::new() };
    let page = Page {
        title: about.data.clone(),
        about: format!("{}{part} samples, {} dimensions, {}", some.len(), rows.dim, about.model),
        names: some.names.iter().map(String::as_str).collect(),
        labels: some.labels.clone(),
        classes: &about.classes,
        points: &plane.points,
        neighbours: near,
        sheets,
        side: arguments.thumb,
    };
    page.html()
}

/// Where the samples of the index are among the images.
fn places(images: &dyn Source<Sample = Image>, some: &Rows, arguments: &Arguments) -> Result<Vec<usize>> {
    let known: HashMap<String, usize> = (0..images.len()).map(|i| (images.sample_name(i), i)).collect();
    let place = |name: &String| {
        let found = known.get(name).copied();
        found.with_context(|| {
            let (data, index) = (arguments.data.as_deref().unwrap_or_default(), arguments.index.display());
            format!("{data}: has no `{name}`, which {index} has: not what was embedded")
        })
    };
    some.names.iter().map(place).collect()
}

#[cfg(test)]
mod tests;
