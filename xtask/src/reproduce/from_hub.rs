//! `cargo xtask reproduce --from-hub`: published weights on ImageNet, beside what their authors report.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use contrastive_core::augment::Interpolation;
use contrastive_core::data::Split;
use contrastive_core::eval::{Metric, Protocol};
use contrastive_core::image_eval::{ImageProtocol, Options};
use contrastive_core::nn::{BackboneConfig, ResNetConfig, VitConfig};
use contrastive_core::weights::published::imagenet_eval;

use super::{Arguments, out, short, version};
use crate::data;
use crate::eval::{Encoder, Stopped};
use crate::progress::Bar;
use crate::results::{self, Row};
use crate::train::{device, stop_flag, tell_skipped};
use crate::{published, tables};

/// A published network and where its authors' numbers stand.
struct Model {
    /// Its name here and on command lines.
    name: &'static str,
    method: &'static str,
    /// Weights that can be had; none where the files have to be converted first.
    place: Option<&'static str>,
    backbone: fn() -> BackboneConfig,
    /// The filter of the authors' evaluation.
    interpolation: Interpolation,
    /// The protocol, the table and the line with their number.
    numbers: &'static [(&'static str, &'static str, &'static str)],
}

const KNN: &str = "knn-k20-t0.07-v1";
const DINO: &str = "linear-dino-v1";
const MOCO: &str = "linear-mocov3-v1";

const MODELS: [Model; 7] = [
    Model {
        name: "dino-vit-s16",
        method: "dino",
        place: Some("hub:timm/vit_small_patch16_224.dino"),
        backbone: || VitConfig::small(16).into(),
        interpolation: Interpolation::Bicubic,
        numbers: &[
            (KNN, "imagenet-knn", "ViT-S/16, 800 epochs"),
            (DINO, "imagenet-linear", "ViT-S/16, 800 epochs"),
        ],
    },
    Model {
        name: "dino-vit-s8",
        method: "dino",
        place: Some("hub:timm/vit_small_patch8_224.dino"),
        backbone: || VitConfig::small(8).into(),
        interpolation: Interpolation::Bicubic,
        numbers: &[
            (KNN, "imagenet-knn", "ViT-S/8, 800 epochs"),
            (DINO, "imagenet-linear", "ViT-S/8, 800 epochs"),
        ],
    },
    Model {
        name: "dino-vit-b16",
        method: "dino",
        place: Some("hub:timm/vit_base_patch16_224.dino"),
        backbone: || VitConfig::base(16).into(),
        interpolation: Interpolation::Bicubic,
        numbers: &[
            (KNN, "imagenet-knn", "ViT-B/16, 400 epochs"),
            (DINO, "imagenet-linear", "ViT-B/16, 400 epochs"),
        ],
    },
    Model {
        name: "dino-vit-b8",
        method: "dino",
        place: Some("hub:timm/vit_base_patch8_224.dino"),
        backbone: || VitConfig::base(8).into(),
        interpolation: Interpolation::Bicubic,
        numbers: &[
            (KNN, "imagenet-knn", "ViT-B/8, 300 epochs"),
            (DINO, "imagenet-linear", "ViT-B/8, 300 epochs"),
        ],
    },
    Model {
        name: "moco-v3-resnet50",
        method: "moco-v3",
        place: None,
        backbone: || ResNetConfig::torchvision(50).into(),
        interpolation: Interpolation::Bilinear,
        numbers: &[(KNN, "", ""), (MOCO, "v3-imagenet-linear", "ResNet-50, 1000 epochs")],
    },
    Model {
        name: "moco-v3-vit-s16",
        method: "moco-v3",
        place: None,
        backbone: || VitConfig { heads: 12, ..VitConfig::small(16) }.into(),
        interpolation: Interpolation::Bilinear,
        numbers: &[(KNN, "", ""), (MOCO, "v3-imagenet-linear", "ViT-S/16, 300 epochs")],
    },
    Model {
        name: "moco-v3-vit-b16",
        method: "moco-v3",
        // Uploaded again by others; the authors' own files are not on the Hub.
        place: Some("hub:nyu-visionx/moco-v3-vit-b"),
        backbone: || VitConfig::base(16).into(),
        interpolation: Interpolation::Bilinear,
        numbers: &[(KNN, "", ""), (MOCO, "v3-imagenet-linear", "ViT-B/16, 300 epochs")],
    },
];

/// A model with the weights that a call gives it.
struct Chosen {
    model: &'static Model,
    place: Option<String>,
}

/// The models that a call asks for: all, those of some methods, or some by name.
fn choose(arguments: &Arguments) -> Result<Vec<Chosen>> {
    let is = |model: &Model, name: &str| model.name == name || model.method == name;
    for name in &arguments.methods {
        if !MODELS.iter().any(|model| is(model, name)) {
            let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
            bail!("no published model `{name}`; known: dino, moco-v3, {}", names.join(", "));
        }
    }
    let mut given = Vec::new();
    for weights in &arguments.weights {
        let (name, place) = weights.split_once('=').context("--weights is NAME=PLACE")?;
        if !MODELS.iter().any(|model| model.name == name) {
            bail!("--weights {weights}: no published model `{name}`");
        }
        given.push((name, place.to_string()));
    }
    let wanted =
        |model: &&Model| arguments.methods.is_empty() || arguments.methods.iter().any(|name| is(model, name));
    let chosen = MODELS.iter().filter(wanted).map(|model| {
        let own = given.iter().find(|(name, _)| *name == model.name).map(|(_, place)| place.clone());
        Chosen { model, place: own.or(model.place.map(String::from)) }
    });
    Ok(chosen.collect())
}

/// The authors' number of a protocol.
fn paper(root: &Path, method: &str, table: &str, line: &str) -> Result<Option<f64>> {
    if table.is_empty() {
        return Ok(None);
    }
    let file = root.join("results/published").join(format!("{}.json", tables::page(method)));
    let tables = published::read(&file)?;
    let rows = tables.iter().filter(|t| t.table == table).flat_map(|t| &t.rows);
    let row = rows.into_iter().find(|row| row.setting == line);
    let row = row.with_context(|| format!("{}: no `{line}` in `{table}`", file.display()))?;
    Ok(Some(row.value))
}

/// Samples of ImageNet's parts.
const IMAGENET: [f64; 2] = [1_281_167.0, 50_000.0];

/// Evaluates, or says what that would take.
pub fn run(arguments: &Arguments) -> Result<()> {
    let chosen = choose(arguments)?;
    if arguments.dry_run {
        print!("{}", plan(&chosen)?);
        return Ok(());
    }
    let Some(place) = &arguments.data else {
        bail!("--from-hub needs --data DIR with the folders `train` and `val` of ImageNet (image-net.org)");
    };
    if let Some(without) = chosen.iter().find(|chosen| chosen.place.is_none()) {
        let name = without.model.name;
        bail!("{name} is not on the Hub: convert the authors' file and pass --weights {name}=FOLDER");
    }
    let folder = out(arguments).join("from-hub");
    let stop = stop_flag()?;
    let device = device(&arguments.device)?;
    for Chosen { model, place: weights } in &chosen {
        let weights = weights.as_deref().unwrap_or_default();
        let heads = match (model.backbone)() {
            BackboneConfig::Vit(vit) => Some(vit.heads),
            _ => None,
        };
        let encoder = Encoder::of_weights(weights, heads, &device)?;
        let encoder = encoder.with_eval(imagenet_eval(model.interpolation));
        let (train, test) = (data::source(place, Split::Train)?, data::source(place, Split::Test)?);
        for (protocol, table, line) in model.numbers {
            let metrics = if let Ok(frozen) = Protocol::parse(protocol) {
                let of = |split| encoder.features(place, split, arguments.workers);
                frozen.evaluate(&of(Split::Train)?, &of(Split::Test)?)?
            } else {
                let mut bar = Bar::new(model.name)?;
                let options = Options {
                    dir: folder.join("protocols").join(model.name),
                    device: device.clone(),
                    workers: arguments.workers,
                    stop: stop.clone(),
                    set: Vec::new(),
                    observer: Some(&mut bar),
                };
                let subject = encoder.subject()?;
                let measured = ImageProtocol::parse(protocol)?.measure(&subject, &train, &test, options)?;
                let Some(measured) = measured else { return Err(Stopped.into()) };
                tell_skipped(&measured.skipped);
                measured.metrics
            };
            let paper = paper(&tables::root(), model.method, table, line)?;
            let hash = format!("{}+{}", short(&train.fingerprint()), short(&test.fingerprint()));
            let row = row(model, weights, protocol, &metrics, paper, &encoder.digest()?, hash)?;
            let value = row.value.unwrap_or_default();
            let beside =
                paper.map_or("no number of the authors".into(), |p| format!("the authors' {p:.1} %"));
            println!("{:<18} {protocol:<18} {value:5.1} % ({beside})", model.name);
            results::merge(
                &folder.join("results.json"),
                vec![Row { device: arguments.device.clone(), ..row }],
            )?;
        }
    }
    println!("{}", folder.join("results.json").display());
    Ok(())
}

fn row(
    model: &Model,
    weights: &str,
    protocol: &str,
    metrics: &[Metric],
    paper: Option<f64>,
    digest: &str,
    data_hash: String,
) -> Result<Row> {
    let top1 = metrics.iter().find(|metric| metric.name == "top1");
    let top1 = top1.with_context(|| format!("{protocol} reports no top1"))?;
    Ok(Row {
        method: model.name.into(),
        recipe: weights.into(),
        dataset: "imagenet".into(),
        protocol: protocol.into(),
        metric: top1.name.clone(),
        unit: "%".into(),
        value: Some((1e4 * top1.value).round() / 1e2),
        paper,
        seed: 0,
        seconds: 0.0,
        config_hash: short(digest).into(),
        data_hash,
        version: version(),
        device: String::new(),
        missing: None,
    })
}

/// What a call would do, a line for each number.
fn plan(chosen: &[Chosen]) -> Result<String> {
    let mut text = format!(
        "{:<18} {:<26} {:<18} {:>12} {:>10}  weights\n",
        "model", "backbone", "protocol", "the authors'", "PFLOP"
    );
    for Chosen { model, place } in chosen {
        let backbone = (model.backbone)();
        let forward = backbone.cost(224)?.flops as f64;
        for (protocol, table, line) in model.numbers {
            let paper = paper(&tables::root(), model.method, table, line)?;
            let paper = paper.map_or_else(String::new, |p| format!("{p:.1}"));
            // Features are extracted once; linear classifiers see every image anew in each of 100 epochs or fewer.
            let images = match Protocol::parse(protocol) {
                Ok(_) => IMAGENET[0] + IMAGENET[1],
                Err(_) => 100.0 * IMAGENET[0] + IMAGENET[1],
            };
            let name = backbone.to_string();
            let place = place.as_deref().unwrap_or("(to be converted: docs/weights.md)");
            let _ = writeln!(
                text,
                "{:<18} {name:<26} {protocol:<18} {paper:>12} {:>10.1}  {place}",
                model.name,
                images * forward / 1e15
            );
        }
    }
    text.push_str(
        "\nBy arithmetic over forward passes of 224 x 224 pixels, 100 epochs for linear classifiers.\n",
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(words: &[&str]) -> Arguments {
        use clap::{Args as _, FromArgMatches as _};
        let command = Arguments::augment_args(clap::Command::new("reproduce"));
        let all = ["reproduce", "--from-hub"].iter().chain(words);
        Arguments::from_arg_matches(&command.try_get_matches_from(all).unwrap()).unwrap()
    }

    #[test]
    fn a_dry_run_names_every_number_of_the_authors() -> Result<()> {
        let text = plan(&choose(&call(&["--dry-run"]))?)?;
        for (model, protocol, number) in [
            ("dino-vit-s16", KNN, "74.5"),
            ("dino-vit-s16", DINO, "77.0"),
            ("dino-vit-s8", KNN, "78.3"),
            ("dino-vit-b8", DINO, "80.1"),
            ("moco-v3-resnet50", MOCO, "74.6"),
            ("moco-v3-vit-s16", MOCO, "73.2"),
            ("moco-v3-vit-b16", MOCO, "76.7"),
        ] {
            let line = text.lines().find(|line| line.starts_with(model) && line.contains(protocol));
            assert!(line.is_some_and(|line| line.contains(number)), "{model} {protocol}: {text}");
        }
        // Every model has a line for each protocol, and every protocol exists.
        assert_eq!(text.lines().filter(|line| line.contains("-v1")).count(), 2 * MODELS.len());
        for (protocol, ..) in MODELS.iter().flat_map(|model| model.numbers) {
            assert!(
                Protocol::parse(protocol).is_ok() || ImageProtocol::parse(protocol).is_ok(),
                "{protocol}"
            );
        }
        run(&call(&["--dry-run", "moco-v3"]))
    }

    #[test]
    fn calls_are_checked() -> Result<()> {
        let message = |words: &[&str]| run(&call(words)).err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(message(&["simclr"]).contains("no published model `simclr`"));
        assert!(message(&["dino"]).contains("--data"), "{}", message(&["dino"]));
        assert!(message(&["moco-v3", "--data", "x"]).contains("--weights moco-v3-resnet50="));
        assert!(message(&["--weights", "dino=x"]).contains("no published model `dino`"));
        let own = choose(&call(&["moco-v3-vit-s16", "--weights", "moco-v3-vit-s16=here"]))?;
        assert_eq!(own.iter().map(|c| c.place.as_deref()).collect::<Vec<_>>(), [Some("here")]);
        Ok(())
    }
}
