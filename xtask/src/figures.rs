//! Figures as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// A named curve.
pub struct Curve {
    /// The legend.
    pub name: String,
    /// Points in order of x.
    pub points: Vec<(f64, f64)>,
}

/// Draws panels side by side, each `(title, x label, y label, curves)`.
pub fn lines(path: &Path, panels: &[(&str, &str, &str, Vec<Curve>)]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let width = 480 * panels.len().max(1) as u32;
    let root = SVGBackend::new(path, (width, 360)).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.split_evenly((1, panels.len().max(1)));
    for (area, (title, x_label, y_label, curves)) in areas.iter().zip(panels) {
        let points = || curves.iter().flat_map(|c| c.points.iter()).filter(|p| p.1.is_finite());
        let range = |pick: fn(&(f64, f64)) -> f64| {
            let (low, high) = points().map(pick).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
            let pad = ((high - low) * 0.05).max(1e-3);
            if low > high { 0.0..1.0 } else { low - pad..high + pad }
        };
        let (x, y) = (range(|p| p.0), range(|p| p.1));
        // The legend goes where the curves do not end.
        let ends: Vec<f64> = curves.iter().filter_map(|c| c.points.last()).map(|p| p.1).collect();
        let middle = ends.iter().sum::<f64>() / ends.len().max(1) as f64;
        let low = middle < (y.start + y.end) / 2.0;
        let corner = if low { SeriesLabelPosition::UpperRight } else { SeriesLabelPosition::LowerRight };
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(x, y)
            .map_err(|e| anyhow!("figure: {e}"))?;
        chart.configure_mesh().x_desc(*x_label).y_desc(*y_label).light_line_style(WHITE).draw()?;
        for (i, curve) in curves.iter().enumerate() {
            let colour = Palette99::pick(i).to_rgba();
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), colour.stroke_width(2)))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(corner)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

/// A curve with the range around it.
pub struct Band {
    /// The legend.
    pub name: String,
    /// x, y, and the range of y, in order of x.
    pub points: Vec<(f64, f64, f64, f64)>,
}

/// A drawing of such curves.
pub struct BandPanel {
    /// Its title.
    pub title: String,
    /// What x is.
    pub x: String,
    /// What y is.
    pub y: String,
    /// Its curves.
    pub curves: Vec<Band>,
}

/// Draws panels with ranges, at most three side by side.
pub fn bands(path: &Path, panels: &[BandPanel]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let columns = panels.len().clamp(1, 3);
    let rows = panels.len().div_ceil(columns).max(1);
    let root = SVGBackend::new(path, (420 * columns as u32, 300 * rows as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, panel) in root.split_evenly((rows, columns)).iter().zip(panels) {
        let points = || panel.curves.iter().flat_map(|curve| &curve.points);
        let widen = |low: f64, high: f64| {
            let pad = ((high - low) * 0.05).max(1e-3);
            if low > high { 0.0..1.0 } else { low - pad..high + pad }
        };
        let (left, right) = points().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.0), h.max(p.0)));
        let (low, high) = points().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p.2), h.max(p.3)));
        let mut chart = ChartBuilder::on(area)
            .caption(&panel.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(widen(left, right), widen(low, high))
            .map_err(|e| anyhow!("figure: {e}"))?;
        let short = |x: &f64| if *x >= 1e6 { format!("{:.1}M", x / 1e6) } else { format!("{:.0}k", x / 1e3) };
        chart
            .configure_mesh()
            .x_desc(&panel.x)
            .y_desc(&panel.y)
            .x_labels(5)
            .x_label_formatter(&short)
            .light_line_style(WHITE)
            .draw()?;
        // The paper's colours: black without CPC, red with it.
        for (curve, colour) in panel.curves.iter().zip([BLACK, RED]) {
            let upper = curve.points.iter().map(|p| (p.0, p.3));
            let lower = curve.points.iter().rev().map(|p| (p.0, p.2));
            let around: Vec<(f64, f64)> = upper.chain(lower).collect();
            chart.draw_series(std::iter::once(Polygon::new(around, colour.mix(0.15))))?;
            chart
                .draw_series(LineSeries::new(
                    curve.points.iter().map(|p| (p.0, p.1)),
                    colour.stroke_width(2),
                ))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    root.present()?;
    Ok(())
}
