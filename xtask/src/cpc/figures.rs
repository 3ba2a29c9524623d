//! The paper's figures 2, 3 and 6: points beside the results, and the drawings that they become.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::figures::{self, Curve};
use crate::results::write_atomic;
use crate::tsne;

/// Figure 2: windows in the plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plane {
    /// The collection.
    pub dataset: String,
    /// The run's seed.
    pub seed: u64,
    /// t-SNE's perplexity.
    pub perplexity: f64,
    /// What it reached.
    pub divergence: f64,
    /// A point for each window.
    pub points: Vec<[f64; 2]>,
    /// Its speaker.
    pub labels: Vec<u32>,
}

/// Figure 3: the share of negatives whose logit is below the positive's, by step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steps {
    /// The collection.
    pub dataset: String,
    /// The run's seed.
    pub seed: u64,
    /// Step (10 ms each) and share.
    pub points: Vec<(f64, f64)>,
}

/// Figure 6: a learning curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Returns {
    /// The maze.
    pub task: String,
    /// With or without CPC.
    pub method: String,
    /// The run's seed.
    pub seed: u64,
    /// Frames and mean return.
    pub points: Vec<(f64, f64)>,
}

/// The points of all figures of a tier.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    planes: Vec<Plane>,
    steps: Vec<Steps>,
    returns: Vec<Returns>,
}

fn replace<T, K: PartialEq>(all: &mut Vec<T>, new: T, key: impl Fn(&T) -> K) {
    match all.iter_mut().find(|old| key(old) == key(&new)) {
        Some(old) => *old = new,
        None => all.push(new),
    }
}

impl Figures {
    /// In the place of an older one of the same collection.
    pub fn add_plane(&mut self, plane: Plane) {
        replace(&mut self.planes, plane, |p| p.dataset.clone());
    }

    /// In the place of older ones of the same collection and seed.
    pub fn add_steps(&mut self, steps: Steps) {
        replace(&mut self.steps, steps, |s| (s.dataset.clone(), s.seed));
    }

    /// In the place of an older one of the same maze, method and seed.
    pub fn add_returns(&mut self, returns: Returns) {
        replace(&mut self.returns, returns, |r| (r.task.clone(), r.method.clone(), r.seed));
    }
}

/// The points of a file; none if there is no file.
pub fn read(path: &Path) -> Result<Figures> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| path.display().to_string()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Figures::default()),
        Err(e) => Err(e).with_context(|| path.display().to_string()),
    }
}

/// Writes points, one line for each drawing or curve.
pub fn write(path: &Path, figures: &Figures) -> Result<()> {
    fn lines<T: Serialize>(all: &[T]) -> Result<String> {
        let lines: Vec<String> = all.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        Ok(if lines.is_empty() { String::new() } else { format!("\n{}\n", lines.join(",\n")) })
    }
    let (planes, steps, returns) =
        (lines(&figures.planes)?, lines(&figures.steps)?, lines(&figures.returns)?);
    write_atomic(
        path,
        &format!("{{\"planes\": [{planes}],\n\"steps\": [{steps}],\n\"returns\": [{returns}]}}\n"),
    )
}

/// Draws what there is: `cpc-speakers-TIER.svg` (one for each collection, the name of the second and later ones with
/// their data), `cpc-steps-TIER.svg`, `cpc-returns-TIER.svg`.
pub fn draw(folder: &Path, tier: &str, figures: &Figures) -> Result<()> {
    for (i, plane) in figures.planes.iter().enumerate() {
        let name = if i == 0 { String::new() } else { format!("-{}", plane.dataset) };
        let title = format!(
            "CPC, {}: {} windows, colour is the speaker; t-SNE, perplexity {}, divergence {}",
            plane.dataset,
            plane.points.len(),
            plane.perplexity,
            plane.divergence
        );
        let path = folder.join(format!("cpc-speakers{name}-{tier}.svg"));
        tsne::draw(&path, &title, &plane.points, &plane.labels)?;
    }
    if !figures.steps.is_empty() {
        let curve = |s: &Steps| Curve {
            name: if s.seed == 0 { s.dataset.clone() } else { format!("{}, seed {}", s.dataset, s.seed) },
            points: s.points.clone(),
        };
        let panel = (
            "positive above a negative",
            "step (10 ms each)",
            "share",
            figures.steps.iter().map(curve).collect(),
        );
        figures::lines(&folder.join(format!("cpc-steps-{tier}.svg")), &[panel])?;
    }
    if !figures.returns.is_empty() {
        let mut tasks: Vec<&str> = Vec::new();
        for returns in &figures.returns {
            if !tasks.contains(&returns.task.as_str()) {
                tasks.push(&returns.task);
            }
        }
        let panels: Vec<figures::BandPanel> = tasks.iter().map(|task| panel(figures, task)).collect();
        figures::bands(&folder.join(format!("cpc-returns-{tier}.svg")), &panels)?;
    }
    Ok(())
}

/// A maze: the mean over seeds and the range that they span, for both methods.
fn panel(figures: &Figures, task: &str) -> figures::BandPanel {
    let mut curves = Vec::new();
    for method in ["a2c", "a2c+cpc"] {
        let own: Vec<&Returns> = figures
            .returns
            .iter()
            .filter(|r| (r.task.as_str(), r.method.as_str()) == (task, method))
            .collect();
        let mut points: Vec<(f64, f64, f64, f64)> = Vec::new();
        let mut frames: Vec<f64> = own.iter().flat_map(|r| r.points.iter().map(|p| p.0)).collect();
        frames.sort_by(f64::total_cmp);
        frames.dedup();
        for frame in frames {
            let at: Vec<f64> =
                own.iter().flat_map(|r| &r.points).filter(|p| p.0 == frame).map(|p| p.1).collect();
            let (low, high) = at.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            points.push((frame, at.iter().sum::<f64>() / at.len() as f64, low, high));
        }
        let seeds = own.len();
        let name = format!("{method} ({seeds} seed{})", if seeds == 1 { "" } else { "s" });
        curves.push(figures::Band { name, points });
    }
    figures::BandPanel { title: task.to_string(), x: "frames".into(), y: "return".into(), curves }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returns(method: &str, seed: u64, last: f64) -> Returns {
        let points = vec![(100.0, 0.0), (200.0, last)];
        Returns { task: "maze".into(), method: method.into(), seed, points }
    }

    #[test]
    fn points_are_replaced_and_drawn() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("figures.json");
        let mut figures = read(&path)?;
        let plane = Plane {
            dataset: "six".into(),
            seed: 0,
            perplexity: 2.0,
            divergence: 0.5,
            points: vec![[0.0, 1.0], [1.5, -1.0], [2.0, 0.25]],
            labels: vec![0, 1, 1],
        };
        figures.add_plane(plane.clone());
        figures.add_plane(Plane { divergence: 0.25, ..plane.clone() });
        figures.add_plane(Plane { dataset: "ten".into(), ..plane });
        figures.add_steps(Steps { dataset: "six".into(), seed: 0, points: vec![(1.0, 0.9), (2.0, 0.8)] });
        for (method, seed, last) in [("a2c", 0, 1.0), ("a2c", 1, 3.0), ("a2c+cpc", 0, 4.0), ("a2c", 1, 5.0)] {
            figures.add_returns(returns(method, seed, last));
        }
        assert_eq!((figures.planes.len(), figures.steps.len(), figures.returns.len()), (2, 1, 3));
        write(&path, &figures)?;
        assert_eq!(read(&path)?, figures);
        let band = &panel(&figures, "maze").curves[0];
        assert_eq!((band.name.as_str(), band.points[1]), ("a2c (2 seeds)", (200.0, 3.0, 1.0, 5.0)));
        draw(folder.path(), "smoke", &figures)?;
        for (name, word) in [
            ("cpc-speakers-smoke.svg", "six"),
            ("cpc-speakers-ten-smoke.svg", "ten"),
            ("cpc-steps-smoke.svg", "share"),
            ("cpc-returns-smoke.svg", "a2c+cpc (1 seed)"),
        ] {
            let text = std::fs::read_to_string(folder.path().join(name))?;
            assert!(text.contains(word), "{name}: {text}");
        }
        std::fs::write(&path, "{}")?;
        assert!(read(&path).is_err_and(|e| format!("{e:#}").contains("figures.json")));
        Ok(())
    }
}
