//! Settings: defaults, then a TOML file, then `--set a.b=c` overrides.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toml::de::DeTable;

use crate::kernels::Precision;
use crate::{Error, Result};

/// The settings of the training loop itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Epochs of the whole run.
    pub epochs: u64,
    /// Samples in a step, over all ranks together.
    pub batch_size: usize,
    /// The seed of every random stream of the run.
    pub seed: u64,
    /// A checkpoint after every so many optimiser steps; 0 for none between epochs.
    pub checkpoint_every_steps: u64,
    /// A checkpoint at the end of every so many epochs; 0 for none but at the end of the run, where there is always
    /// one.
    pub checkpoint_every_epochs: u64,
    /// How many of the newest checkpoints stay on disk.
    pub keep_checkpoints: usize,
    /// A line of metrics every so many steps.
    pub log_every_steps: u64,
    /// Gradients with a larger l2 norm than this (over all parameters) are scaled down to it.
    pub grad_clip: Option<f64>,
    /// Whether `grad_clip` is for each parameter's own norm instead (DINO).
    pub grad_clip_each: bool,
    /// How operations on the CPU round.
    pub precision: Precision,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 100,
            batch_size: 256,
            seed: 0,
            checkpoint_every_steps: 0,
            checkpoint_every_epochs: 1,
            keep_checkpoints: 2,
            log_every_steps: 10,
            grad_clip: None,
            grad_clip_each: false,
            precision: Precision::F32,
        }
    }
}

impl TrainConfig {
    /// Checks the ranges. `prefix` is where these settings stand in the whole configuration (`train`, or empty).
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key out of range.
    pub fn check(&self, prefix: &str) -> Result<()> {
        let positive = [
            ("epochs", self.epochs),
            ("batch_size", self.batch_size as u64),
            ("keep_checkpoints", self.keep_checkpoints as u64),
            ("log_every_steps", self.log_every_steps),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(Error::config(join(prefix, key), "must be at least 1"));
            }
        }
        // So that no count of steps overflows.
        if u32::try_from(self.epochs).is_err() {
            return Err(Error::config(join(prefix, "epochs"), format!("must be at most {}", u32::MAX)));
        }
        if i64::try_from(self.seed).is_err() {
            return Err(Error::config(join(prefix, "seed"), format!("must be at most {}", i64::MAX)));
        }
        match self.grad_clip {
            Some(clip) if !(clip > 0.0 && clip.is_finite()) => {
                Err(Error::config(join(prefix, "grad_clip"), format!("must be positive, is {clip}")))
            }
            _ => Ok(()),
        }
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") }
}

/// The settings that result from `defaults`, overlaid by the TOML file at `file`, overlaid by `overrides`
/// (`a.b=c`, in order).
///
/// The known keys are those that `defaults` serialises to; keep `None` fields serialised (no `skip_serializing_if`).
/// The right side of an override is a TOML value (`0.3`, `true`, `[1, 2]`, `"text"`); what is not one, or does not fit
/// as one, is taken as text. Arrays are replaced as a whole, and so is a table whose `kind` changes: its keys belong to
/// the kind.
///
/// # Errors
/// [`Error::Config`] naming the dotted key that is unknown (with the nearest known one) or whose value does not fit,
/// with file and line where it came from a file; [`Error::Format`] with the line for a file that is not TOML;
/// [`Error::Io`].
pub fn layered<T>(defaults: &T, file: Option<&Path>, overrides: &[String]) -> Result<T>
where
    T: Serialize + DeserializeOwned,
{
    let tree = serde_json::to_value(defaults).map_err(|e| Error::config("(defaults)", e.to_string()))?;
    let mut layers = Layers { known: leaves(&tree), tree };
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |s| line_at(&text, s.start));
            Error::format(path, format!("line {line}: {}", e.message().replace('\n', ", ")))
        })?;
        let value = serde_json::to_value(table).map_err(|e| Error::format(path, e))?;
        for (key, leaf) in leaves_over(&value, Some(&layers.tree)) {
            layers.put::<T>(&key, leaf).map_err(|reason| {
                let line = line_of(&text, &key).map_or(String::new(), |n| format!(":{n}"));
                Error::config(key.clone(), format!("{reason} ({}{line})", path.display()))
            })?;
        }
    }
    for text in overrides {
        let Some((key, value)) = text.split_once('=') else {
            return Err(Error::config(text, "an override has the form key=value"));
        };
        let (key, value) = (key.trim(), value.trim());
        let typed = format!("x = {value}").parse::<toml::Table>().ok();
        let typed = typed.filter(|t| t.len() == 1).and_then(|t| serde_json::to_value(&t["x"]).ok());
        let text = Value::String(value.to_string());
        let done = match typed {
            // `name=123` for a textual key: the second reading.
            Some(typed) => {
                layers.put::<T>(key, typed).or_else(|reason| layers.put::<T>(key, text).map_err(|_| reason))
            }
            None => layers.put::<T>(key, text),
        };
        done.map_err(|reason| Error::config(key, reason))?;
    }
    serde_json::from_value(layers.tree).map_err(|e| Error::config("(defaults)", e.to_string()))
}

/// The settings that a file holds in full, as a run directory's `config.toml` does.
///
/// # Errors
/// [`Error::Format`] naming the file, and the key where there is one; [`Error::Io`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |s| line_at(&text, s.start));
        Error::format(path, format!("line {line}: {}", e.message().replace('\n', ", ")))
    })
}

struct Layers {
    /// What `T` serialises to after the layers so far.
    tree: Value,
    known: Vec<(String, Value)>,
}

impl Layers {
    /// Sets one leaf; on an error nothing has changed. Values go in one at a time, so that the one that does not fit is
    /// known by name.
    fn put<T: Serialize + DeserializeOwned>(&mut self, key: &str, value: Value) -> Result<(), String> {
        let old = place(&mut self.tree, key).ok_or(()).cloned();
        let old = old.map_err(|()| format!("unknown key{}", self.hint(key)))?;
        let mut readings = Vec::new();
        match (&old, &value) {
            (Value::Object(old), Value::Object(new)) => {
                let merged = old.clone().into_iter().chain(new.clone()).collect();
                readings.extend([(key, Value::Object(merged)), (key, value)]);
            }
            (Value::Object(_), _) => return Err("is a table, not a value".to_string()),
            _ => {
                readings.push((key, value.clone()));
                // Another kind may have other keys: then the old ones go and the kind's defaults come.
                if let Some(table) = key.strip_suffix(".kind") {
                    readings.push((table, json!({"kind": value})));
                }
            }
        }
        let mut fault = String::new();
        for (key, value) in readings {
            let mut tree = self.tree.clone();
            if let Some(place) = place(&mut tree, key) {
                *place = value;
            }
            match serde_json::from_value::<T>(tree) {
                Ok(whole) => {
                    self.tree = serde_json::to_value(whole).map_err(|e| e.to_string())?;
                    self.known = leaves(&self.tree);
                    return Ok(());
                }
                Err(error) => fault = error.to_string(),
            }
        }
        Err(fault)
    }

    fn hint(&self, key: &str) -> String {
        let leaf = |key: &str| key.rsplit('.').next().unwrap_or(key).to_string();
        let near = |known: &str| {
            let whole = distance(key, known);
            if leaf(key) == leaf(known) { whole.min(1) } else { whole }
        };
        match self.known.iter().map(|(known, _)| (near(known), known)).min() {
            Some((d, known)) if d <= 2 + key.chars().count() / 4 => format!(", did you mean `{known}`?"),
            _ => String::new(),
        }
    }
}

/// Where a dotted key stands.
fn place<'a>(tree: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    key.split('.').try_fold(tree, |place, part| place.as_object_mut()?.get_mut(part))
}

/// All values that are not tables, by dotted key. An empty table counts as none.
fn leaves(value: &Value) -> Vec<(String, Value)> {
    leaves_over(value, None)
}

/// The same, but a table whose `kind` is another than in `base` counts as one value, because its keys make sense only
/// together.
fn leaves_over(value: &Value, base: Option<&Value>) -> Vec<(String, Value)> {
    fn walk(prefix: &str, value: &Value, base: Option<&Value>, found: &mut Vec<(String, Value)>) {
        let other_kind = match (value.get("kind"), base.and_then(|b| b.get("kind"))) {
            (Some(new), Some(old)) => new != old,
            _ => false,
        };
        match value {
            Value::Object(map) if !other_kind => {
                map.iter().for_each(|(k, v)| walk(&join(prefix, k), v, base.and_then(|b| b.get(k)), found));
            }
            other => found.push((prefix.to_string(), other.clone())),
        }
    }
    let mut found = Vec::new();
    walk("", value, base, &mut found);
    found
}

/// Edits (insertions, deletions, replacements) from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn line_at(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|b| *b == b'\n').count()
}

/// The line of a dotted key, from 1.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut line = None;
    for part in key.split('.') {
        let (name, value) = table.iter().find(|(name, _)| name.get_ref() == part)?;
        line = Some(line_at(text, name.span().start));
        match value.get_ref().as_table() {
            Some(inner) => table = inner,
            None => break,
        }
    }
    line
}

/// Settings as TOML text.
///
/// # Errors
/// [`Error::Config`] for values that TOML cannot hold.
pub fn to_toml_string<T: Serialize>(settings: &T) -> Result<String> {
    toml::to_string_pretty(settings).map_err(|e| Error::config("(settings)", e.to_string()))
}

/// The first dotted key, in sorted order, under which two trees differ.
pub fn first_difference(a: &Value, b: &Value) -> Option<String> {
    let (a, b) = (leaves(a), leaves(b));
    let differs = |x: &[(String, Value)], y: &[(String, Value)]| {
        x.iter().filter(|leaf| !y.contains(leaf)).map(|(key, _)| key.clone()).min()
    };
    differs(&a, &b).into_iter().chain(differs(&b, &a)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        name: String,
        train: TrainConfig,
        optim: Optim,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
    #[serde(deny_unknown_fields)]
    struct Optim {
        lr: f64,
        milestones: Vec<u64>,
        kind: Kind,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
    #[serde(rename_all = "kebab-case")]
    enum Kind {
        #[default]
        Sgd,
        Lars,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn with(text: &str, overrides: &[&str]) -> Result<Whole> {
        let file = file(text);
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        layered(&Whole::default(), Some(file.path()), &overrides)
    }

    fn refusal(text: &str, overrides: &[&str]) -> String {
        with(text, overrides).unwrap_err().to_string()
    }

    #[test]
    fn later_layers_win() -> Result<()> {
        let text = "name = 'a'\n[train]\nepochs = 5\nseed = 9\n[optim]\nlr = 1\nmilestones = [1, 2]\n";
        let whole = with(text, &["train.epochs=7", "train.epochs = 8", "optim.milestones=[3]"])?;
        assert_eq!(whole.train, TrainConfig { epochs: 8, seed: 9, ..TrainConfig::default() });
        assert_eq!(whole.optim, Optim { lr: 1.0, milestones: vec![3], kind: Kind::Sgd });
        let whole = with("", &["name=resnet18", "optim.kind=lars", "optim.lr=3e-2", "train.grad_clip=1"])?;
        assert_eq!((whole.name.as_str(), whole.optim.kind, whole.optim.lr), ("resnet18", Kind::Lars, 0.03));
        assert_eq!(whole.train.grad_clip, Some(1.0));
        assert_eq!(with("", &["name=123"])?.name, "123");
        assert_eq!(layered(&Whole::default(), None, &[])?, Whole::default());
        Ok(())
    }

    #[test]
    fn unknown_keys_are_named_with_a_hint_and_a_line() {
        let text = refusal("name = 'a'\n\n[train]\nseed = 1\nepoch = 5\n", &[]);
        assert!(
            text.starts_with("config key `train.epoch`: unknown key, did you mean `train.epochs`?"),
            "{text}"
        );
        assert!(text.ends_with(":5)"), "{text}");
        let text = refusal("", &["lr=3"]);
        assert_eq!(text, "config key `lr`: unknown key, did you mean `optim.lr`?");
        assert_eq!(
            refusal("", &["completely.different=3"]),
            "config key `completely.different`: unknown key"
        );
        assert!(refusal("", &["name.deeper=3"]).starts_with("config key `name.deeper`: unknown key"));
        assert!(refusal("", &["optim=3"]).contains("is a table"));
        assert!(refusal("", &["optim.lr"]).contains("key=value"));
    }

    #[test]
    fn type_errors_name_the_key() {
        let text = refusal("[optim]\nlr = 'fast'\n", &[]);
        assert!(
            text.starts_with("config key `optim.lr`: invalid type: string \"fast\", expected f64"),
            "{text}"
        );
        assert!(text.ends_with(":2)"), "{text}");
        assert!(refusal("", &["train.epochs=1.5"]).starts_with("config key `train.epochs`: invalid type"));
        assert!(refusal("", &["train.seed=-1"]).starts_with("config key `train.seed`: invalid value"));
        let text = refusal("", &["optim.kind=adam"]);
        assert!(text.contains("optim.kind") && text.contains("`sgd` or `lars`"), "{text}");
        assert!(refusal("optim = 3", &[]).contains("`optim`: is a table"));
    }

    #[test]
    fn broken_files_are_named_with_the_line() {
        let text = refusal("name = 'a'\n[train\n", &[]);
        assert!(text.contains(": line 2: "), "{text}");
        let absent = layered(&Whole::default(), Some(Path::new("/no/such/file.toml")), &[]);
        assert!(matches!(absent, Err(Error::Io { .. })));
    }

    #[test]
    fn toml_text_reads_back() -> Result<()> {
        let whole = with("", &["train.grad_clip=0.5", "name=x"])?;
        let text = to_toml_string(&whole)?;
        assert_eq!(with(&text, &[])?, whole);
        Ok(())
    }

    #[test]
    fn ranges_are_checked() {
        let good = TrainConfig::default();
        assert!(good.check("train").is_ok());
        let check = |config: TrainConfig| config.check("train").unwrap_err().to_string();
        assert!(check(TrainConfig { epochs: 0, ..good.clone() }).contains("train.epochs"));
        assert!(check(TrainConfig { epochs: 1 << 32, ..good.clone() }).contains("train.epochs"));
        assert!(check(TrainConfig { seed: u64::MAX, ..good.clone() }).contains("train.seed"));
        assert!(check(TrainConfig { grad_clip: Some(f64::NAN), ..good.clone() }).contains("train.grad_clip"));
        assert!(
            TrainConfig { keep_checkpoints: 0, ..good }
                .check("")
                .unwrap_err()
                .to_string()
                .contains("`keep_checkpoints`")
        );
    }

    #[test]
    fn differences_come_in_order() {
        let a = serde_json::json!({"a": 1, "b": {"c": 2, "d": [1]}});
        assert_eq!(first_difference(&a, &a.clone()), None);
        let b = serde_json::json!({"a": 1, "b": {"c": 2, "d": [2]}, "e": 0});
        assert_eq!(first_difference(&a, &b).as_deref(), Some("b.d"));
        let c = serde_json::json!({"b": {"c": 2, "d": [1]}});
        assert_eq!(first_difference(&a, &c).as_deref(), Some("a"));
        assert_eq!(first_difference(&c, &a).as_deref(), Some("a"));
    }
}
