//! What the papers report: tables as data, beside which our own numbers stand once they are measured.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

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
}

/// The tables of a method's page; none if there is no file.
pub fn read(path: &Path) -> Result<Vec<Table>> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| path.display().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

/// The tables as Markdown. The column of our own numbers is empty until a run fills it.
pub fn markdown(tables: &[Table]) -> String {
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
            let _ = writeln!(text, "| {}{note} | {} |  | {how} |", row.setting, row.value);
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
        let text = markdown(&read(&path)?);
        assert!(text.contains("| 100 | 68.1 |  | `imagenet` `train.epochs=100` |"), "{text}");
        assert!(text.contains("| 2x (from memory) | 70.5 |  |  |"), "{text}");
        std::fs::write(&path, "[{}]")?;
        assert!(read(&path).is_err_and(|e| format!("{e:#}").contains("m.json")));
        Ok(())
    }

    #[test]
    fn every_preset_that_a_table_names_exists() -> Result<()> {
        for method in crate::methods::NAMES {
            let page = crate::tables::page(method);
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
