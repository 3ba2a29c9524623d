//! The method's page: tables of what was measured, and the paper's tables with our numbers beside.

use std::path::Path;

use anyhow::Result;

use super::figures;
use crate::published;
use crate::results::{self, Row};

/// Rows of a tier, beside those of the methods on images.
pub const RESULTS: &str = "cpc.json";

/// Points of a tier's figures.
pub const FIGURES: &str = "cpc-figures.json";

/// The tiers that are documented.
const TIERS: [&str; 2] = ["smoke", "small"];

/// What a table is about, and the beginnings of its protocols' names.
const TABLES: [(&str, &[&str]); 3] = [
    ("Speech", &["phones-", "speakers-"]),
    ("Text", &["sentences-"]),
    ("Reinforcement learning", &["return-"]),
];

/// The tables of a tier's rows, in the order in which rows were measured.
pub fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    for (title, protocols) in TABLES {
        let own: Vec<Row> = rows
            .iter()
            .filter(|row| protocols.iter().any(|p| row.protocol.starts_with(p)))
            .cloned()
            .collect();
        if own.is_empty() {
            continue;
        }
        let mut methods: Vec<&str> = Vec::new();
        for row in &own {
            if !methods.contains(&row.method.as_str()) && row.method != "random" && row.method != "supervised"
            {
                methods.push(&row.method);
            }
        }
        let gap = if text.is_empty() { "" } else { "\n" };
        text += &format!("{gap}{title}:\n\n{}", results::markdown(&own, &[], &methods));
    }
    if text.is_empty() { "Not run yet.\n".into() } else { text }
}

/// Writes the page's tables of a tier, the paper's tables and the tier's figures below `root`, from the files of results.
pub fn document(root: &Path, tier: &str) -> Result<()> {
    let page = root.join("docs/methods/cpc.md");
    let folder = |tier: &str| root.join("results").join(tier);
    if TIERS.contains(&tier) {
        let rows = results::read(&folder(tier).join(RESULTS))?;
        results::splice(&page, &format!("cpc-{tier}"), &tables(&rows))?;
        figures::draw(&root.join("docs/figures"), tier, &figures::read(&folder(tier).join(FIGURES))?)?;
    }
    let mut measured = Vec::new();
    for tier in TIERS {
        let mut rows = results::read(&folder(tier).join(RESULTS))?;
        let images = results::read(&folder(tier).join("results.json"))?;
        rows.extend(images.into_iter().filter(|row| row.method == super::IMAGES));
        measured.push((tier, rows));
    }
    let tables = published::read(&root.join("results/published/cpc.json"))?;
    results::splice(&page, "cpc-published", &published::markdown(&tables, &measured))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use contrastive_cpc::{rl, speech, text};

    #[test]
    fn kinds_of_data_have_tables_of_their_own() -> Result<()> {
        let row = |method: &str, protocol: &str, unit: &str| -> Result<Row> {
            Ok(serde_json::from_value(serde_json::json!({
                "method": method, "recipe": "smoke", "dataset": "d", "protocol": protocol, "metric": "top1",
                "unit": unit, "value": 12.345, "paper": null, "seed": 0, "seconds": 0.0, "config_hash": "",
                "data_hash": "", "version": "", "device": "cpu"
            }))?)
        };
        let rows = [
            row("random", "phones-linear-v1", "%")?,
            row("cpc", "phones-linear-v1", "%")?,
            row("a2c", "return-x", "reward")?,
        ];
        let text = tables(&rows);
        assert!(text.starts_with("Speech:\n\n| method") && text.contains("| cpc | d | 12.3 |"), "{text}");
        let place = text.find("Reinforcement").context("a second table")?;
        assert!(text[place..].contains("| a2c | d | 12.35 |") && !text[place..].contains("random"), "{text}");
        assert_eq!(tables(&[]), "Not run yet.\n");
        Ok(())
    }

    /// Presets that the paper's tables name exist, and what they say of our rows can be measured.
    #[test]
    fn the_papers_tables_name_what_there_is() -> Result<()> {
        let path = crate::tables::root().join("results/published/cpc.json");
        let tables = published::read(&path)?;
        assert!(tables.len() >= 6, "{} tables", tables.len());
        let own =
            [&speech::recipe::PRESETS[..], &text::recipe::PRESETS[..], &rl::recipe::PRESETS[..]].concat();
        let images = crate::methods::presets(super::super::IMAGES).unwrap_or_default();
        for table in &tables {
            for row in &table.rows {
                let Some(preset) = &row.preset else { continue };
                let known = own.iter().any(|(name, _)| name == preset)
                    || preset.starts_with("images-")
                    || images.iter().any(|(name, _)| name == preset);
                assert!(known, "{}: no preset `{preset}`", table.table);
            }
        }
        Ok(())
    }
}
