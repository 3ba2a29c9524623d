//! The card of a model: what it is, how it was made, what was measured, how it is used.

use std::fmt::Write as _;

use contrastive_core::weights::Manifest;

use crate::results::Row;

/// What a card tells.
pub struct Card<'a> {
    /// Its heading.
    pub title: String,
    /// Where it will lie, `OWNER/NAME`.
    pub repository: Option<&'a str>,
    /// The encoder's manifest.
    pub manifest: &'a Manifest,
    /// The hash of the configuration, for a run of ours.
    pub hash: Option<String>,
    /// What was measured.
    pub rows: &'a [Row],
}

impl Card<'_> {
    /// Markdown with the Hub's metadata before it.
    pub fn markdown(&self) -> String {
        let Manifest { method, branch, backbone, preprocessing, data, licence, origin, .. } = self.manifest;
        let mut text = self.metadata();
        let _ = write!(text, "\n# {}\n\n", line(&self.title));
        let _ = writeln!(text, "| | |\n| --- | --- |");
        let mut row = |name: &str, value: &str| {
            let _ = writeln!(text, "| {name} | {} |", cell(value));
        };
        row("method", method);
        row("network", branch);
        row("backbone", backbone);
        row("preprocessing", preprocessing);
        row("data", &format!("{} (fingerprint {})", data.name, data.fingerprint));
        if let Some(hash) = &self.hash {
            row("recipe", &format!("config.toml, hash {hash}"));
        }
        row("licence", licence);
        if let Some(origin) = origin {
            row("converted from", &format!("{} of {}", origin.file, origin.repository));
            row("its BLAKE3", &origin.blake3);
        }
        text.push_str("\n## Results\n\n");
        if self.rows.is_empty() {
            text.push_str("None were measured.\n");
        } else {
            text.push_str("| data | protocol | metric | value | seed | config | data hash | version |\n");
            text.push_str("| --- | --- | --- | ---: | ---: | --- | --- | --- |\n");
        }
        for row in self.rows {
            let value = row.value.map(|value| format!("{value:.1} {}", row.unit)).unwrap_or_default();
            let cells = [&row.dataset, &row.protocol, &row.metric, &value, &row.seed.to_string()];
            let rest = [&row.config_hash, &row.data_hash, &row.version];
            let cells: Vec<String> = cells.into_iter().chain(rest).map(|text| cell(text)).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        self.usage(&mut text);
        text
    }

    /// The Hub's own fields.
    fn metadata(&self) -> String {
        let licence = &self.manifest.licence;
        let known = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(licence));
        let mut text = String::from("---\nlibrary_name: candle\n");
        match known {
            Some(known) => {
                let _ = writeln!(text, "license: {known}");
            }
            None => {
                let _ = writeln!(text, "license: other\nlicense_name: {}", quoted(licence));
            }
        }
        if !self.manifest.method.starts_with("cpc-speech") {
            text.push_str("pipeline_tag: image-feature-extraction\n");
        }
        let _ = writeln!(text, "tags:\n- self-supervised-learning\n- {}", quoted(&self.manifest.method));
        text.push_str("---\n");
        text
    }

    fn usage(&self, text: &mut String) {
        let place = self.repository.unwrap_or("OWNER/NAME");
        let _ = write!(
            text,
            "\n## Use\n\nIn Rust, with `contrastive-core` and its feature `hub`:\n\n```rust\nlet model = \
             contrastive_core::weights::Pretrained::load(\"{place}\")?;\nlet (backbone, _) = \
             model.build(&candle_core::Device::Cpu)?; // model.preprocessing says what it wants of an \
             image\n```\n\nThe tensors have the names of torchvision (ResNets) and timm (transformers):\n\n```python\nfrom \
             huggingface_hub import hf_hub_download\nfrom safetensors.torch import load_file\n\nweights = \
             load_file(hf_hub_download(\"{place}\", \"encoder.safetensors\"))\n```\n"
        );
    }
}

/// Licences by the Hub's names that SPDX has too, apart from case.
const KNOWN: [&str; 17] = [
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-3.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-3.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-nc-nd-4.0",
    "gpl-3.0",
    "lgpl-3.0",
    "mpl-2.0",
    "unlicense",
];

fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A cell of a table.
fn cell(text: &str) -> String {
    line(text).replace('|', "\\|")
}

/// A string of YAML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", line(text).replace('\\', "\\\\").replace('"', "\\\""))
}
