//! `cargo xtask push`: an encoder with its card, as a folder or on the Hub.

mod card;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use contrastive_core::data::hub::HubSettings;
use contrastive_core::weights::{Hints, Manifest, Pretrained, load_encoder, save_encoder};

use crate::methods::Plan;
use crate::results::{self, Row};

use card::Card;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run directory of a trained encoder.
    #[arg(long, required_unless_present = "weights", conflicts_with = "weights")]
    run: Option<PathBuf>,
    /// Or the folder of a converted one.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// The repository, `OWNER/NAME`; made where it is not there. `HF_TOKEN` is the right to do it.
    #[arg(long, required_unless_present = "folder")]
    to: Option<String>,
    /// Write the files here; without `--to`, nothing is uploaded.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The licence of the weights where the manifest has none: an SPDX identifier or its owner's words.
    #[arg(long)]
    licence: Option<String>,
    /// Results of `cargo xtask reproduce` (`results.json`); rows of this run, or of this method for converted weights, go
    /// into the card.
    #[arg(long = "results", value_name = "FILE")]
    results: Vec<PathBuf>,
    /// Make a new repository private.
    #[arg(long)]
    private: bool,
    /// The commit's message.
    #[arg(long, default_value = "Encoder with manifest and card")]
    message: String,
}

/// Writes and uploads.
pub fn run(arguments: &Arguments) -> Result<()> {
    for line in push(arguments, &HubSettings::from_env())? {
        println!("{line}");
    }
    Ok(())
}

/// What [`run`] prints.
fn push(arguments: &Arguments, hub: &HubSettings) -> Result<Vec<String>> {
    let scratch;
    let folder = match &arguments.folder {
        Some(folder) => folder.as_path(),
        None => {
            scratch = tempfile::tempdir()?;
            scratch.path()
        }
    };
    let files = write(arguments, folder)?;
    let mut lines = Vec::new();
    if arguments.folder.is_some() {
        lines.extend(files.iter().map(|name| folder.join(name).display().to_string()));
    }
    if let Some(repo) = &arguments.to {
        let names: Vec<&str> = files.iter().map(String::as_str).collect();
        let commit = hub.upload(repo, folder, &names, arguments.private, &arguments.message)?;
        lines.push(format!("{}/{repo}: commit {commit}", hub.endpoint));
    }
    Ok(lines)
}

/// Writes the folder; the names of its files.
fn write(arguments: &Arguments, folder: &Path) -> Result<Vec<String>> {
    let from = match (&arguments.run, &arguments.weights) {
        (Some(from), _) | (None, Some(from)) => from,
        (None, None) => bail!("--run or --weights is needed"),
    };
    let encoder = from.join("encoder.safetensors");
    let (tensors, manifest) = load_encoder(&encoder)?;
    let manifest =
        manifest.with_context(|| format!("{}: no manifest: convert it first", encoder.display()))?;
    let manifest = licensed(manifest, arguments.licence.as_deref(), &encoder)?;
    // Networks of recordings are no backbones of images.
    if !manifest.method.starts_with("cpc") {
        // Its finite numbers and shapes are checked.
        Pretrained::open(&encoder, Hints::default())?;
    }
    let plan = match &arguments.run {
        Some(run) if !manifest.method.starts_with("cpc") => {
            Some(Plan::read(&manifest.method, &run.join("config.toml"))?)
        }
        _ => None,
    };
    let hash = plan.as_ref().map(|plan| plan.hash()).transpose()?;
    let rows = rows(&arguments.results, &manifest, hash.as_deref())?;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut sorted: Vec<_> = tensors.into_iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    save_encoder(&folder.join("encoder.safetensors"), &sorted, &manifest)?;
    let mut files = vec!["encoder.safetensors".to_string()];
    for name in ["heads.safetensors", "config.toml"] {
        let path = from.join(name);
        if path.is_file() {
            std::fs::copy(&path, folder.join(name)).with_context(|| path.display().to_string())?;
            files.push(name.to_string());
        }
    }
    let name = arguments.to.as_deref().and_then(|to| to.split('/').next_back());
    let title = name.map_or_else(|| format!("{} {}", manifest.method, manifest.backbone), str::to_string);
    let card = Card { title, repository: arguments.to.as_deref(), manifest: &manifest, hash, rows: &rows };
    results::write_atomic(&folder.join("README.md"), &card.markdown())?;
    files.push("README.md".to_string());
    Ok(files)
}

/// The manifest with a licence that says something.
fn licensed(manifest: Manifest, licence: Option<&str>, path: &Path) -> Result<Manifest> {
    match licence.map(str::trim).filter(|text| !text.is_empty()) {
        Some(licence) => Ok(Manifest { licence: licence.to_string(), ..manifest }),
        None if manifest.licence == "unspecified" => {
            bail!("{}: its licence is not known: name it with --licence", path.display())
        }
        None => Ok(manifest),
    }
}

/// Measured rows of the run with this configuration, or else of the method.
fn rows(files: &[PathBuf], manifest: &Manifest, hash: Option<&str>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for file in files {
        let all = results::read(file)?;
        if all.is_empty() {
            bail!("{}: no results", file.display());
        }
        let own = |row: &Row| match hash {
            Some(hash) => row.config_hash == hash,
            None => row.method == manifest.method,
        };
        rows.extend(all.into_iter().filter(|row| row.value.is_some() && own(row)));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests;
