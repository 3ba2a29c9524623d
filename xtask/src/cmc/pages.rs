//! The method's page: tables of the parts, and the paper's tables with our numbers beside.

use std::path::Path;

use anyhow::Result;

use crate::published;
use crate::results::{self, Row};

/// Rows of a tier's parts, beside those of the methods on images.
pub const RESULTS: &str = "cmc.json";

/// What a table is about, and what the names of its lines begin with.
const TABLES: [(&str, &[&str]); 7] = [
    ("Segmentation from L by the number of views it was contrasted with (core view)", &["views-"]),
    ("Segmentation from each view, trained in both graphs", &["graph "]),
    ("The encoder of L, by what it was trained to do with another view", &["target "]),
    (
        "NCE and softmax by the number of negatives, a quarter of the preset's epochs",
        &["nce,", "softmax,", "in-batch"],
    ),
    (
        "Two patches of 32 pixels of one picture, by how far apart their corners are along each axis",
        &["distance "],
    ),
    (
        "Contrastive representation distillation: a ResNet-18 of width 16 teaches a ResNet-8 (of width 4 on digits, 16 else)",
        &["teacher", "student"],
    ),
    ("Videos: a frame against the motion around it (D), against a later frame (V)", &["video "]),
];

/// The tables of a tier's rows.
pub fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    for (title, begins) in TABLES {
        let own: Vec<Row> =
            rows.iter().filter(|row| begins.iter().any(|b| row.method.starts_with(b))).cloned().collect();
        let mut methods: Vec<&str> = own.iter().map(|row| row.method.as_str()).collect();
        methods.sort_unstable_by_key(|method| order(method));
        methods.dedup();
        for dataset in datasets(&own) {
            let own: Vec<Row> = own.iter().filter(|row| row.dataset == dataset).cloned().collect();
            let gap = if text.is_empty() { "" } else { "\n" };
            text += &format!("{gap}{title}; {dataset}:\n\n{}", results::markdown(&own, &[], &methods));
        }
    }
    if text.is_empty() { "Not run yet.\n".into() } else { text }
}

/// Names in order, numbers in them as numbers.
fn order(name: &str) -> Vec<(u64, &str)> {
    let words = name.split([' ', ',', '-']).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_or((u64::MAX, word), |number| (number, ""))).collect()
}

fn datasets(rows: &[Row]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for row in rows {
        if !names.contains(&row.dataset) {
            names.push(row.dataset.clone());
        }
    }
    names
}

/// Writes the page's tables of the parts and the paper's below `root`, from the files of results.
pub fn document(root: &Path) -> Result<()> {
    let page = root.join("docs/methods/cmc.md");
    let folder = |tier: &str| root.join("results").join(tier);
    let mut measured = Vec::new();
    for tier in ["smoke", "small"] {
        let mut rows = results::read(&folder(tier).join(RESULTS))?;
        results::splice(&page, &format!("cmc-parts-{tier}"), &tables(&rows))?;
        let images = results::read(&folder(tier).join("results.json"))?;
        rows.extend(images.into_iter().filter(|row| row.method == super::GROUP));
        measured.push((tier, rows));
    }
    let tables = published::read(&root.join("results/published/cmc.json"))?;
    results::splice(&page, "cmc-published", &published::markdown(&tables, &measured))
}
