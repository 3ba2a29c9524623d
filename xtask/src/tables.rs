//! Results in the documentation: tables and figures, from the files of a tier alone.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::methods::NAMES;
use crate::peers::{self, Peer};
use crate::results::{self, Row};

/// The repository, whatever folder the program is called in.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Peers' records, which lie beside the results of a tier.
pub fn peers_beside(results: &Path) -> Result<Vec<Peer>> {
    peers::read(&results.with_file_name("peers.json"))
}

/// Writes the tables and figures of `methods` into the documentation below `root`, and all tables of the tier into the
/// pages that show them together.
pub fn document(root: &Path, tier: &str, methods: &[&str], rows: &[Row]) -> Result<()> {
    let folder = root.join("results").join(tier);
    let peers = peers_beside(&folder.join("results.json"))?;
    for method in methods.iter().filter(|m| rows.iter().any(|row| row.table == **m)) {
        let page = root.join("docs/methods").join(format!("{method}.md"));
        let table = results::markdown(rows, &peers, method);
        results::splice(&page, &format!("{method}-{tier}"), &table)?;
        let from = folder.join(format!("{method}.svg"));
        if from.is_file() {
            let figures = root.join("docs/figures");
            std::fs::create_dir_all(&figures).with_context(|| figures.display().to_string())?;
            std::fs::copy(&from, figures.join(format!("{method}-{tier}.svg")))
                .with_context(|| from.display().to_string())?;
        }
    }
    let with_rows = NAMES.iter().filter(|m| rows.iter().any(|row| row.table == **m));
    let tables: Vec<String> = with_rows.map(|m| results::markdown(rows, &peers, m)).collect();
    let tables = tables.join("\n");
    results::splice(&root.join("docs/results.md"), tier, &tables)?;
    if tier == "smoke" {
        results::splice(&root.join("README.md"), tier, &tables)?;
    }
    Ok(())
}

/// [`document`] from what was measured before; trains nothing.
pub fn rewrite(root: &Path, tier: &str, methods: &[&str]) -> Result<()> {
    let path = root.join("results").join(tier).join("results.json");
    let rows = results::read(&path)?;
    if rows.is_empty() {
        bail!("{}: no results of tier {tier} yet", path.display());
    }
    document(root, tier, methods, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is committed is what the files give: nobody typed into a table.
    #[test]
    fn documentation_is_generated() -> Result<()> {
        let root = root();
        let copy = tempfile::tempdir()?;
        let files = [
            "README.md",
            "docs/results.md",
            "docs/methods/simclr.md",
            "docs/figures/simclr-smoke.svg",
            "docs/figures/simclr-small.svg",
        ];
        let results = ["results.json", "peers.json", "simclr.svg"];
        let results =
            results.iter().flat_map(|name| ["smoke", "small"].map(|t| format!("results/{t}/{name}")));
        for file in files.iter().map(ToString::to_string).chain(results) {
            let to = copy.path().join(&file);
            std::fs::create_dir_all(to.parent().unwrap_or(&to))?;
            if root.join(&file).is_file() {
                std::fs::copy(root.join(&file), to)?;
            }
        }
        for tier in ["smoke", "small"] {
            rewrite(copy.path(), tier, &NAMES)?;
        }
        for file in files {
            let [is, should] = [&root, copy.path()].map(|place| std::fs::read(place.join(file)));
            assert!(is? == should?, "{file} is not what the results give: cargo xtask reproduce --tables");
        }
        let error = rewrite(copy.path(), "paper", &NAMES).map_or_else(|e| e.to_string(), |()| String::new());
        assert!(error.contains("paper") && error.contains("no results"), "{error}");
        Ok(())
    }
}
