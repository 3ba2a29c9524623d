//! Curves of the trained methods: points beside the results, and the figure that they become.

use std::path::Path;

use anyhow::{Context, Result};
use contrastive_core::eval::Protocol;
use serde::{Deserialize, Serialize};

use crate::figures;
use crate::results::write_atomic;

/// Loss and kNN accuracy over the epochs of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The method, or `supervised`.
    pub method: String,
    /// The run's seed.
    pub seed: u64,
    /// Epoch (from 1) and mean loss.
    pub loss: Vec<(f64, f64)>,
    /// Epoch and top-1 in percent.
    pub knn: Vec<(f64, f64)>,
}

impl Curve {
    /// The curves that a run directory holds, and its seconds of training.
    pub fn read(method: &str, seed: u64, dir: &Path) -> Result<(Self, f64)> {
        let path = dir.join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut curve = Self { method: method.into(), seed, loss: Vec::new(), knn: Vec::new() };
        let mut seconds = 0.0;
        let knn = format!("{}/top1", Protocol::KnnK200T01V1);
        let digits = |x: f64| (x * 1e4).round() / 1e4;
        for line in text.lines() {
            let value: serde_json::Value =
                serde_json::from_str(line).with_context(|| path.display().to_string())?;
            if value["kind"] != "epoch" {
                continue;
            }
            let epoch = value["epoch"].as_f64().unwrap_or_default() + 1.0;
            seconds += value["time"]["seconds"].as_f64().unwrap_or_default();
            if let Some(loss) = value["values"]["loss"].as_f64() {
                curve.loss.push((epoch, digits(loss)));
            }
            if let Some(top1) = value["values"][&knn].as_f64() {
                curve.knn.push((epoch, digits(100.0 * top1)));
            }
        }
        Ok((curve, seconds))
    }
}

/// The curves of a file; none if there is no file.
pub fn read(path: &Path) -> Result<Vec<Curve>> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| path.display().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

/// Adds curves to those of earlier runs, replacing those of the same method and seed.
pub fn merge(path: &Path, new: Vec<Curve>) -> Result<()> {
    let mut curves = read(path)?;
    curves.retain(|old| !new.iter().any(|curve| (&curve.method, curve.seed) == (&old.method, old.seed)));
    curves.extend(new);
    let lines: Vec<String> = curves.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    write_atomic(path, &format!("[\n{}\n]\n", lines.join(",\n")))
}

/// The first seed's kNN accuracy of every method, in the order of `methods`.
pub fn draw(path: &Path, curves: &[Curve], methods: &[&str]) -> Result<()> {
    let mut lines = Vec::new();
    for method in methods.iter().chain(&["supervised"]) {
        let first =
            curves.iter().filter(|c| c.method == **method && !c.knn.is_empty()).min_by_key(|c| c.seed);
        if let Some(curve) = first {
            lines.push(figures::Curve { name: curve.method.clone(), points: curve.knn.clone() });
        }
    }
    figures::lines(path, &[("kNN top-1 (k = 200)", "epoch", "%", lines)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_replaced_by_method_and_seed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("curves.json");
        let curve = |method: &str, seed, knn| Curve {
            method: method.into(),
            seed,
            loss: vec![(1.0, 2.0)],
            knn: vec![(1.0, knn)],
        };
        merge(&path, vec![curve("a", 0, 10.0), curve("a", 1, 20.0)])?;
        merge(&path, vec![curve("a", 1, 30.0), curve("b", 0, 5.0)])?;
        assert_eq!(read(&path)?, [curve("a", 0, 10.0), curve("a", 1, 30.0), curve("b", 0, 5.0)]);
        let svg = folder.path().join("f.svg");
        draw(&svg, &read(&path)?, &["b", "a"])?;
        assert!(std::fs::read_to_string(&svg)?.contains("kNN"));
        Ok(())
    }
}
