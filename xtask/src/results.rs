//! Rows of measured results, and the files they become.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::peers::Peer;

/// One measured number, with all that is needed to trust it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `pixels`, `random`, `supervised`, or the method.
    pub method: String,
    /// The preset (`smoke`, `small`).
    pub recipe: String,
    /// The data set's short name.
    pub dataset: String,
    /// Name and version of the protocol (`knn-k200-t0.1-v1`).
    pub protocol: String,
    /// `top1`, `top5`, ...
    pub metric: String,
    /// `%` or another unit.
    pub unit: String,
    /// What was measured here; absent when the row could not be run.
    pub value: Option<f64>,
    /// What the paper says for its own setting; never measured here.
    pub paper: Option<f64>,
    /// The run's seed.
    pub seed: u64,
    /// Seconds of training behind the number.
    pub seconds: f64,
    /// Hash of the resolved configuration.
    pub config_hash: String,
    /// Fingerprint of training and test data.
    pub data_hash: String,
    /// Version of the code.
    pub version: String,
    /// `cpu`, `cuda:0`, `metal`.
    pub device: String,
    /// Why there is no value.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub missing: Option<String>,
}

impl Row {
    /// Where the row stands in its table: everything but the numbers.
    fn place(&self) -> (&str, &str, &str, &str, u64) {
        (&self.method, &self.dataset, &self.protocol, &self.metric, self.seed)
    }
}

/// Reads the rows of an earlier run; none if there is no file.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            serde_json::from_str(&text).with_context(|| format!("{}: not a results file", path.display()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

/// Adds rows to those of earlier runs, replacing rows of the same place, and writes the file.
pub fn merge(path: &Path, new: Vec<Row>) -> Result<Vec<Row>> {
    let mut rows = read(path)?;
    // A row that said why it is missing goes as soon as its method is measured (or is missing for another reason).
    let settled = |old: &Row| old.missing.is_some() && new.iter().any(|row| row.method == old.method);
    rows.retain(|old| !settled(old) && !new.iter().any(|row| row.place() == old.place()));
    rows.extend(new);
    let text = serde_json::to_string_pretty(&rows)? + "\n";
    write_atomic(path, &text)?;
    Ok(rows)
}

/// Writes a small text file so that a reader sees the old or the new content and nothing between.
pub fn write_atomic(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let new = path.with_extension("new");
    std::fs::write(&new, text).with_context(|| new.display().to_string())?;
    std::fs::rename(&new, path).with_context(|| path.display().to_string())
}

/// The Markdown table of some methods of a tier, between the lines they are held against: a line per method, a column
/// per protocol and metric, the mean over seeds with its spread. A paper's numbers stand in a column of their own, and
/// other libraries' in lines of their own below ours, in the columns of the protocols that measure the same.
pub fn markdown(rows: &[Row], peers: &[Peer], shown: &[&str]) -> String {
    let order: Vec<&str> = ["pixels", "random"].iter().chain(shown).chain(&["supervised"]).copied().collect();
    let rank = |method: &str| order.iter().position(|name| *name == method);
    let mut rows: Vec<&Row> = rows.iter().filter(|row| rank(&row.method).is_some()).collect();
    rows.sort_by_key(|row| rank(&row.method));
    let mut columns: Vec<(String, String)> = Vec::new();
    let mut methods: Vec<(String, String)> = Vec::new();
    let mut cells: BTreeMap<(usize, usize), Vec<&Row>> = BTreeMap::new();
    for row in &rows {
        let column = place(&mut columns, (row.protocol.clone(), row.metric.clone()));
        let line = place(&mut methods, (row.method.clone(), row.dataset.clone()));
        cells.entry((line, column)).or_default().push(row);
    }
    let published = rows.iter().any(|row| row.paper.is_some());
    let mut text = String::from("| method | data |");
    for (protocol, metric) in &columns {
        let _ = write!(text, " {protocol} {metric} |");
    }
    text.push_str(if published { " the paper's |\n| --- | --- |" } else { "\n| --- | --- |" });
    text.push_str(&" ---: |".repeat(columns.len() + usize::from(published)));
    text.push('\n');
    for (line, (method, dataset)) in methods.iter().enumerate() {
        let _ = write!(text, "| {method} | {dataset} |");
        for column in 0..columns.len() {
            let cell = cells.get(&(line, column)).map(|rows| cell(rows)).unwrap_or_default();
            let _ = write!(text, " {cell} |");
        }
        if published {
            let own = rows.iter().filter(|row| (&row.method, &row.dataset) == (method, dataset));
            let number = own.filter_map(|row| row.paper).next().map(|p| format!("{p:.1}"));
            let _ = write!(text, " {} |", number.unwrap_or_default());
        }
        text.push('\n');
    }
    // A peer without a number of ours beside it would stand for itself; it is left out.
    let beside = |peer: &&Peer| methods.iter().any(|(m, d)| (m, d) == (&peer.method, &peer.dataset));
    let mut lines: Vec<(String, &str)> = Vec::new();
    for peer in peers.iter().filter(beside) {
        place(&mut lines, (peer.label(), peer.dataset.as_str()));
    }
    for (label, dataset) in lines {
        let _ = write!(text, "| {label} | {dataset} |");
        for (protocol, metric) in &columns {
            let own = peers.iter().filter(beside).filter(|p| p.label() == label && p.dataset == dataset);
            let own = own.filter(|p| (&p.protocol, &p.metric) == (protocol, metric)).map(|p| p.value);
            let _ = write!(text, " {} |", mean(&own.collect::<Vec<f64>>(), 1).unwrap_or_default());
        }
        text.push_str(if published { "  |\n" } else { "\n" });
    }
    text
}

fn place<T: PartialEq>(items: &mut Vec<T>, item: T) -> usize {
    items.iter().position(|x| *x == item).unwrap_or_else(|| {
        items.push(item);
        items.len() - 1
    })
}

/// One cell: a single value, or mean and standard deviation over seeds.
pub fn cell(rows: &[&Row]) -> String {
    let values: Vec<f64> = rows.iter().filter_map(|row| row.value).collect();
    let missing = || rows.iter().find_map(|row| row.missing.clone()).unwrap_or_else(|| "not run".into());
    // Returns of episodes are small numbers.
    let digits = if rows.iter().any(|row| row.unit == "reward") { 2 } else { 1 };
    mean(&values, digits).unwrap_or_else(missing)
}

/// A single value, or mean and standard deviation of several.
fn mean(values: &[f64], digits: usize) -> Option<String> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    match values {
        [] => None,
        [value] => Some(format!("{value:.digits$}")),
        _ => {
            let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
            Some(format!("{mean:.digits$} ± {spread:.digits$}"))
        }
    }
}

/// Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->` in a file.
pub fn splice(path: &Path, name: &str, content: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let (Some(start), Some(end)) = (text.find(&open), text.find(&close)) else {
        anyhow::bail!("{}: no place marked {open} … {close}", path.display());
    };
    let new = format!("{}{open}\n{content}{}", &text[..start], &text[end..]);
    if new != text {
        write_atomic(path, &new)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, seed: u64, value: f64) -> Row {
        Row {
            method: method.into(),
            recipe: "smoke".into(),
            dataset: "d".into(),
            protocol: "knn-v1".into(),
            metric: "top1".into(),
            unit: "%".into(),
            value: Some(value),
            paper: None,
            seed,
            seconds: 0.0,
            config_hash: String::new(),
            data_hash: String::new(),
            version: String::new(),
            device: "cpu".into(),
            missing: None,
        }
    }

    #[test]
    fn rows_of_the_same_place_are_replaced_and_seeds_averaged() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("results.json");
        merge(&path, vec![row("a", 0, 10.0), row("a", 1, 20.0)])?;
        let rows = merge(&path, vec![row("a", 1, 30.0), row("b", 0, 5.0)])?;
        assert_eq!(rows.len(), 3);
        let absent =
            Row { value: None, missing: Some("no data".into()), dataset: "e".into(), ..row("c", 0, 0.0) };
        assert_eq!(merge(&path, vec![absent])?.len(), 4);
        let measured = merge(&path, vec![row("c", 0, 1.0)])?;
        assert!(measured.len() == 4 && measured.iter().all(|row| row.missing.is_none()));
        let table = markdown(&rows, &[], &["a", "b"]);
        assert!(table.contains("| a | d | 20.0 ± 14.1 |"), "{table}");
        assert!(table.contains("| b | d | 5.0 |\n"), "{table}");
        let published = Row { paper: Some(69.3), ..row("c", 0, 1.0) };
        let table = markdown(&[published], &[], &["c"]);
        assert!(table.contains("the paper's") && table.contains("| c | d | 1.0 | 69.3 |"), "{table}");
        Ok(())
    }

    #[test]
    fn peers_stand_in_lines_of_their_own() -> Result<()> {
        let peer = Peer {
            method: "a".into(),
            implementation: "other 1.0".into(),
            dataset: "d".into(),
            protocol: "knn-k200-t0.1-v1".into(),
            definition: "200 nearest".into(),
            metric: "top1".into(),
            unit: "%".into(),
            value: 21.0,
            seed: 0,
            seconds: 1.0,
            command: "run a".into(),
        };
        let ours = [
            Row { protocol: peer.protocol.clone(), ..row("a", 0, 20.0) },
            Row { protocol: "linear-sgd-v1".into(), ..row("a", 0, 30.0) },
        ];
        let elsewhere =
            [Peer { method: "b".into(), ..peer.clone() }, Peer { dataset: "e".into(), ..peer.clone() }];
        let own = "| a | d | 20.0 | 30.0 |\n";
        let table = markdown(&ours, &[&elsewhere[..], std::slice::from_ref(&peer)].concat(), &["a"]);
        assert!(table.ends_with(&format!("{own}| *other 1.0: a* | d | 21.0 |  |\n")), "{table}");
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(markdown(&ours, &elsewhere, &["a"]).ends_with(own));

        let folder = tempfile::tempdir()?;
        let path = folder.path().join("peers.json");
        assert!(crate::peers::read(&path)?.is_empty());
        std::fs::write(&path, serde_json::to_string(&[&peer])?)?;
        assert_eq!(crate::peers::read(&path)?, std::slice::from_ref(&peer));
        std::fs::write(&path, serde_json::to_string(&[Peer { protocol: "knn".into(), ..peer }])?)?;
        let error = crate::peers::read(&path).map_or_else(|e| e.to_string(), |_| String::new());
        assert!(error.contains("peers.json") && error.contains("`knn`"), "{error}");
        Ok(())
    }

    #[test]
    fn splice_replaces_only_the_marked_part() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("doc.md");
        std::fs::write(&path, "a\n<!-- x -->\nold\n<!-- /x -->\nb\n")?;
        splice(&path, "x", "new\n")?;
        assert_eq!(std::fs::read_to_string(&path)?, "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n");
        assert!(splice(&path, "y", "").is_err());
        Ok(())
    }
}
