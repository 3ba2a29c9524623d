//! `cargo xtask tsne`: an encoder's features in the plane.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use contrastive_core::data::Split;
use contrastive_core::eval::{Features, TsneConfig, tsne};
use contrastive_core::rng::{Key, Purpose};
use plotters::prelude::*;

use crate::eval::Encoder;
use crate::train::device;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run directory.
    #[arg(long)]
    run: PathBuf,
    /// Labelled data; its test part is shown.
    #[arg(long)]
    data: String,
    /// The figure, SVG.
    #[arg(long)]
    out: PathBuf,
    /// The effective number of neighbours of each sample.
    #[arg(long, default_value_t = 30.0)]
    perplexity: f64,
    /// Samples at most, drawn at random with a fixed seed. Time grows with their square.
    #[arg(long, default_value_t = 2000)]
    samples: usize,
    /// Names the streams of the beginning and of the samples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads that prepare batches.
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

/// Embeds and draws.
pub fn run(arguments: &Arguments) -> Result<()> {
    let encoder = Encoder::open(&arguments.run, &device(&arguments.device)?)?;
    let features = encoder.features(&arguments.data, Split::Test, arguments.workers)?;
    let features = some(features, arguments.samples.max(1), arguments.seed)?;
    let config =
        TsneConfig { perplexity: arguments.perplexity, seed: arguments.seed, ..TsneConfig::default() };
    let found = tsne(&features, &config)?;
    let title = format!(
        "{}, {}: {} samples, perplexity {}, divergence {:.3}",
        encoder.method(),
        arguments.data,
        features.n,
        arguments.perplexity,
        found.divergence
    );
    draw(&arguments.out, &title, &found.points, &features.labels)?;
    println!("{}", arguments.out.display());
    Ok(())
}

/// `most` of the samples, in their order.
fn some(features: Features, most: usize, seed: u64) -> Result<Features> {
    if features.n <= most {
        return Ok(features);
    }
    let mut order = Key::new(seed, Purpose::Eval).name("tsne.samples").stream().permutation(features.n);
    order.truncate(most);
    order.sort_unstable();
    let data = order.iter().flat_map(|&i| features.row(i)).copied().collect();
    let labels = order.iter().map(|&i| features.labels[i]).collect();
    Ok(Features::new("t-SNE", data, features.dim, labels)?)
}

/// A point for each sample, coloured by class. The axes of t-SNE mean nothing, so there are none.
pub fn draw(path: &Path, title: &str, points: &[[f64; 2]], labels: &[u32]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // One scale for both axes, so that distances can be compared; the room on the right is the legend's.
    const SIDE: u32 = 600;
    const LEGEND: u32 = 80;
    const TITLE: u32 = 30;
    let root = SVGBackend::new(path, (SIDE + LEGEND, SIDE + TITLE)).into_drawing_area();
    root.fill(&WHITE)?;
    let (top, below) = root.split_vertically(TITLE);
    top.titled(title, ("sans-serif", 15))?;
    let center = |c: usize| {
        let (low, high) = points.iter().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p[c]), h.max(p[c])));
        ((low + high) / 2.0, (high - low) / 2.0)
    };
    let ((x, wide), (y, high)) = (center(0), center(1));
    let half = wide.max(high).max(1e-9) * 1.05;
    let right = half * (1.0 + 2.0 * f64::from(LEGEND) / f64::from(SIDE));
    let mut chart = ChartBuilder::on(&below)
        .build_cartesian_2d(x - half..x + right, y - half..y + half)
        .map_err(|e| anyhow!("figure: {e}"))?;
    let classes = labels.iter().max().map_or(0, |&m| m + 1);
    for class in 0..classes {
        let colour = Palette99::pick(class as usize).to_rgba();
        let own = points.iter().zip(labels).filter(|(_, label)| **label == class);
        let dots = own.map(|(p, _)| Circle::new((p[0], p[1]), 3, colour.mix(0.7).filled()));
        let series = chart.draw_series(dots)?;
        if classes <= 20 {
            series.label(class.to_string()).legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
        }
    }
    if classes <= 20 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_a_point_and_every_class_in_the_legend() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("deep/figure.svg");
        draw(&path, "a title", &[[0.0, 1.0], [2.0, -1.0], [5.0, 0.0]], &[0, 2, 2])?;
        let text = std::fs::read_to_string(&path)?;
        // Three points; classes 0, 1 (without a sample) and 2 in the legend.
        assert_eq!(text.matches("<circle").count(), 3 + 3, "{text}");
        assert!(text.contains("a title") && text.trim_end().ends_with("</svg>"), "{text}");
        draw(&path, "one point", &[[1.0, 1.0]], &[0])?;
        Ok(())
    }

    #[test]
    fn a_part_keeps_its_labels() -> Result<()> {
        let all = Features::new("all", (0..40).map(|i| i as f32).collect(), 2, (0..20).collect())?;
        let part = some(all.clone(), 7, 3)?;
        assert_eq!((part.n, part.dim), (7, 2));
        assert!((0..7).all(|i| part.row(i)[0] == 2.0 * part.labels[i] as f32));
        assert_eq!(some(all.clone(), 7, 3)?, part);
        assert_eq!(some(all.clone(), 20, 3)?, all);
        Ok(())
    }
}
