//! What the papers report: tables as data, beside which our own numbers stand once they are measured.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::results::{self, Row as Measured};

/// One table of a paper.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// A short name (`imagenet-linear`).
    pub table: String,
    /// What it shows, with its source.
    pub caption: String,
    /// What its numbers are.
    pub metric: String,
    /// The rows.
    pub rows: Vec<Row>,
}

/// One number.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What was varied.
    pub setting: String,
    /// The paper's number.
    pub value: f64,
    /// Our preset for the setting, if a configuration can express it.
    pub preset: Option<String>,
    /// Settings over the preset.
    #[serde(default)]
    pub set: Vec<String>,
    /// What is not certain about the number.
    #[serde(default)]
    pub note: Option<String>,
    /// Which of our rows measure the same on the data that there are.
    #[serde(default)]
    pub here: Option<Here>,
}

/// Names rows of results.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Here {
    /// Their method.
    pub method: String,
    /// Their protocol.
    pub protocol: String,
    /// What of the protocol.
    #[serde(default = "top1")]
    pub metric: String,
    /// Their data, where the protocol is used on several that the paper has rows for.
    #[serde(default)]
    pub data: Option<String>,
}

fn top1() -> String {
    "top1".to_string()
}

impl Here {
    /// Our numbers with their data and tier, in the order of measured rows.
    fn cell(&self, measured: &[(&str, Vec<Measured>)]) -> String {
        let mut parts: Vec<String> = Vec::new();
        for (tier, rows) in measured {
            let own: Vec<&Measured> = rows
                .iter()
                .filter(|row| (&row.method, &row.protocol) == (&self.method, &self.protocol))
                .filter(|row| row.metric == self.metric)
                .filter(|row| self.data.as_ref().is_none_or(|data| *data == row.dataset))
                .collect();
            let mut data: Vec<&str> = Vec::new();
            own.iter().for_each(|row| {
                if !data.contains(&row.dataset.as_str()) {
                    data.push(&row.dataset);
                }
            });
            for name in data {
                let rows: Vec<&Measured> = own.iter().copied().filter(|row| row.dataset == name).collect();
                parts.push(format!("{} ({name}, tier {tier})", results::cell(&rows)));
            }
        }
        parts.join("; ")
    }
}

/// The tables of a method's page; none if there is no file.
pub fn read(path: &Path) -> Result<Vec<Table>> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| path.display().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

/// The tables as Markdown, with what was measured here by tier. The column of our own numbers is empty until a run fills
/// it; it names their data, which are never the paper's.
pub fn markdown(tables: &[Table], measured: &[(&str, Vec<Measured>)]) -> String {
    let mut text = String::new();
    for (i, table) in tables.iter().enumerate() {
        let gap = if i == 0 { "" } else { "\n" };
        let _ = write!(
            text,
            "{gap}**{}**: {} ({})\n\n| setting | the paper's | here | how to run it |\n| --- | ---: | ---: | --- |\n",
            table.table, table.caption, table.metric
        );
        for row in &table.rows {
            let note = row.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
            let mut how = row.preset.as_ref().map(|preset| format!("`{preset}`")).unwrap_or_default();
            for set in &row.set {
                let _ = write!(how, " `{set}`");
            }
            let here = row.here.as_ref().map(|here| here.cell(measured)).unwrap_or_default();
            let _ = writeln!(text, "| {}{note} | {} | {here} | {how} |", row.setting, row.value);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paper_s_number_never_stands_in_our_column() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("m.json");
        assert!(read(&path)?.is_empty());
        let json = r#"[{"table": "t", "caption": "Epochs (table 4)", "metric": "top-1 %", "rows": [
            {"setting": "100", "value": 68.1, "preset": "imagenet", "set": ["train.epochs=100"]},
            {"setting": "2x", "value": 70.5, "preset": null, "note": "from memory"}]}]"#;
        std::fs::write(&path, json)?;
        let text = markdown(&read(&path)?, &[]);
        assert!(text.contains("| 100 | 68.1 |  | `imagenet` `train.epochs=100` |"), "{text}");
        assert!(text.contains("| 2x (from memory) | 70.5 |  |  |"), "{text}");
        let json = r#"[{"table": "t", "caption": "c", "metric": "%", "rows": [
            {"setting": "all", "value": 64.6, "here": {"method": "m", "protocol": "p"}},
            {"setting": "one", "value": 50, "here": {"method": "m", "protocol": "p", "data": "e"}},
            {"setting": "five", "value": 50, "here": {"method": "m", "protocol": "p", "metric": "top5"}}]}]"#;
        std::fs::write(&path, json)?;
        let row = |dataset: &str, value: f64| -> Result<Measured> {
            Ok(serde_json::from_value(serde_json::json!({
                "method": "m", "recipe": "", "dataset": dataset, "protocol": "p", "metric": "top1", "unit": "%",
                "value": value, "paper": null, "seed": 0, "seconds": 0.0, "config_hash": "", "data_hash": "",
                "version": "", "device": "cpu"
            }))?)
        };
        let measured = [("smoke", vec![row("d", 10.0)?, row("e", 20.0)?]), ("small", vec![row("d", 30.0)?])];
        let text = markdown(&read(&path)?, &measured);
        let all = "| all | 64.6 | 10.0 (d, tier smoke); 20.0 (e, tier smoke); 30.0 (d, tier small) |  |";
        assert!(text.contains("| five | 50 |  |  |"), "{text}");
        assert!(text.contains(all) && text.contains("| one | 50 | 20.0 (e, tier smoke) |  |"), "{text}");
        std::fs::write(&path, "[{}]")?;
        assert!(read(&path).is_err_and(|e| format!("{e:#}").contains("m.json")));
        Ok(())
    }

    #[test]
    fn every_preset_that_a_table_names_exists() -> Result<()> {
        for method in crate::methods::NAMES {
            let page = crate::tables::page(method);
            // Its presets are of several kinds: the module that reproduces them looks.
            if page == crate::cpc::GROUP {
                continue;
            }
            for table in read(&crate::tables::root().join("results/published").join(format!("{page}.json")))?
            {
                for row in table.rows {
                    let Some(preset) = row.preset else { continue };
                    let found = crate::methods::NAMES
                        .iter()
                        .filter(|name| crate::tables::page(name) == page)
                        .any(|name| {
                            crate::methods::presets(name).is_ok_and(|all| {
                                let prefix = crate::methods::prefix_of(name).unwrap_or_default();
                                all.iter().any(|(known, _)| format!("{prefix}{known}") == preset)
                            })
                        });
                    assert!(found, "{page}: {}: no preset `{preset}`", table.table);
                }
            }
        }
        Ok(())
    }
}
