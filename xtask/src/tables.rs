//! Results in the documentation: tables and figures, from the files of a tier alone.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::methods::NAMES;
use crate::peers::{self, Peer};
use crate::results::{self, Row};
use crate::{cmc, cpc, curves, published};

/// The repository, whatever folder the program is called in.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Peers' records, which lie beside the results of a tier.
pub fn peers_beside(results: &Path) -> Result<Vec<Peer>> {
    peers::read(&results.with_file_name("peers.json"))
}

/// The page of a method: versions that share their equations share a page.
pub fn page(method: &str) -> &str {
    match method.split_once('-') {
        Some((family @ ("moco" | "cpc"), _)) => family,
        _ => method,
    }
}

/// Writes the tables and the figure of a tier into the documentation below `root`, and what the papers report.
pub fn document(root: &Path, tier: &str, rows: &[Row]) -> Result<()> {
    let folder = root.join("results").join(tier);
    let peers = peers_beside(&folder.join("results.json"))?;
    // Few rows have more than top-1: they stand beside the paper's numbers alone.
    let rows: Vec<Row> = rows.iter().filter(|row| row.metric == "top1").cloned().collect();
    for method in NAMES {
        let file = root.join("docs/methods").join(format!("{}.md", page(method)));
        let measured = rows.iter().any(|row| row.method == *method);
        let table =
            if measured { results::markdown(&rows, &peers, &[method]) } else { "Not run yet.\n".into() };
        if tier != "paper" {
            results::splice(&file, &format!("{method}-{tier}"), &table)?;
        }
        if [cpc::GROUP, cmc::GROUP].contains(&page(method)) {
            continue;
        }
        let tables = published::read(&root.join("results/published").join(format!("{}.json", page(method))))?;
        results::splice(&file, &format!("{}-published", page(method)), &published::markdown(&tables, &[]))?;
    }
    let table = results::markdown(&rows, &peers, NAMES);
    results::splice(&root.join("docs/results.md"), tier, &table)?;
    if tier == "smoke" {
        results::splice(&root.join("README.md"), tier, &table)?;
    }
    let curves = curves::read(&folder.join("curves.json"))?;
    if !curves.is_empty() {
        let figures = root.join("docs/figures");
        std::fs::create_dir_all(&figures).with_context(|| figures.display().to_string())?;
        curves::draw(&figures.join(format!("{tier}.svg")), &curves, NAMES)?;
    }
    cmc::pages::document(root)?;
    cpc::pages::document(root, tier)
}

/// [`document`] from what was measured before; trains nothing.
pub fn rewrite(root: &Path, tier: &str) -> Result<()> {
    let path = root.join("results").join(tier).join("results.json");
    let rows = results::read(&path)?;
    if rows.is_empty() {
        bail!("{}: no results of tier {tier} yet", path.display());
    }
    document(root, tier, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is committed is what the files give: nobody typed into a table.
    #[test]
    fn documentation_is_generated() -> Result<()> {
        let root = root();
        let copy = tempfile::tempdir()?;
        let mut files: Vec<String> =
            ["README.md", "docs/results.md", "docs/figures/smoke.svg", "docs/figures/small.svg"]
                .map(String::from)
                .into();
        files.push("docs/methods/cpc.md".into());
        let figures = ["speakers", "steps", "returns"]
            .iter()
            .flat_map(|name| ["smoke", "small"].map(|tier| format!("docs/figures/cpc-{name}-{tier}.svg")));
        files.extend(figures.filter(|file| root.join(file).is_file()));
        let names = [
            "results.json",
            "peers.json",
            "curves.json",
            cmc::pages::RESULTS,
            cpc::pages::RESULTS,
            cpc::pages::FIGURES,
        ];
        let mut sources: Vec<String> = names
            .iter()
            .flat_map(|name| ["smoke", "small"].map(|tier| format!("results/{tier}/{name}")))
            .collect();
        sources.push("results/published/cpc.json".into());
        for method in NAMES {
            files.push(format!("docs/methods/{}.md", page(method)));
            sources.push(format!("results/published/{}.json", page(method)));
        }
        for file in files.iter().chain(&sources) {
            let to = copy.path().join(file);
            std::fs::create_dir_all(to.parent().unwrap_or(&to))?;
            if root.join(file).is_file() {
                std::fs::copy(root.join(file), to)?;
            }
        }
        for tier in ["smoke", "small"] {
            rewrite(copy.path(), tier)?;
        }
        for file in files {
            let [is, should] = [root.as_path(), copy.path()].map(|place| std::fs::read(place.join(&file)));
            assert!(is? == should?, "{file} is not what the results give: cargo xtask reproduce --tables");
        }
        let error = rewrite(copy.path(), "paper").map_or_else(|e| e.to_string(), |()| String::new());
        assert!(error.contains("paper") && error.contains("no results"), "{error}");
        Ok(())
    }
}
