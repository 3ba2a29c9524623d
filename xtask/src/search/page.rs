//! The map of embeddings as one HTML file: thumbnails in the plane, neighbours of what is clicked.

use std::io::Cursor;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use contrastive_core::augment::{Image, Interpolation, center_crop, resize_shorter};
use contrastive_core::data::Source;
use contrastive_core::eval::Neighbour;
use image::codecs::jpeg::JpegEncoder;
use serde_json::{Value, json};

/// What the page is filled with; it holds the place of the data once.
const TEMPLATE: &str = include_str!("page.html");
const PLACE: &str = "/*DATA*/";

/// Tiles in a row of a sheet, and rows.
const COLUMNS: usize = 16;
/// JPEG's.
const QUALITY: u8 = 82;

/// What a page shows.
pub struct Page<'a> {
    /// Its title.
    pub title: String,
    /// A line below.
    pub about: String,
    /// A name for each point.
    pub names: Vec<&'a str>,
    /// A class for each point, −1 where it has none.
    pub labels: Vec<i64>,
    /// The classes' names.
    pub classes: &'a [String],
    /// Places in the plane, any scale.
    pub points: &'a [[f64; 2]],
    /// The neighbours of each point, nearest first, without itself.
    pub neighbours: Vec<Vec<Neighbour>>,
    /// Sheets of thumbnails.
    pub sheets: Vec<String>,
    /// The side of a thumbnail.
    pub side: usize,
}

/// Sheets of thumbnails as `data:` addresses, in the order of `places`; a picture that cannot be read stays gray.
pub fn sheets(images: &dyn Source<Sample = Image>, places: &[usize], side: usize) -> Result<Vec<String>> {
    let sheet = |places: &[usize]| -> Result<String> {
        let width = (COLUMNS * side) as u32;
        let rows = places.len().div_ceil(COLUMNS);
        let mut sheet = image::RgbImage::from_pixel(width, (rows * side) as u32, image::Rgb([128; 3]));
        for (i, &place) in places.iter().enumerate() {
            let Ok(thumb) = images.sample(place).map_err(Into::into).and_then(|image| thumb(&image, side))
            else {
                continue;
            };
            let (left, top) = (i % COLUMNS * side, i / COLUMNS * side);
            for (p, pixel) in thumb.data.as_chunks::<3>().0.iter().enumerate() {
                sheet.put_pixel((left + p % side) as u32, (top + p / side) as u32, image::Rgb(*pixel));
            }
        }
        let mut bytes = Cursor::new(Vec::new());
        sheet.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY))?;
        Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes.into_inner())))
    };
    places.chunks(COLUMNS * COLUMNS).map(sheet).collect()
}

/// The central square of an image.
fn thumb(image: &Image, side: usize) -> Result<Image> {
    let image = image.to_rgb();
    let square = image.width.min(image.height);
    Ok(resize_shorter(&center_crop(&image, square)?, side, Interpolation::Bilinear)?)
}

impl Page<'_> {
    /// The file.
    pub fn html(&self) -> Result<String> {
        let n = self.names.len();
        if self.labels.len() != n || self.points.len() != n || self.neighbours.len() != n {
            bail!("a page of {n} points with parts of other lengths");
        }
        let near = |near: &Vec<Neighbour>| -> Value {
            near.iter().map(|n| json!([n.index, (f64::from(n.similarity) * 1e4).round() / 1e4])).collect()
        };
        let data = json!({
            "title": self.title,
            "about": self.about,
            "names": self.names,
            "labels": self.labels,
            "classes": self.classes,
            "points": unit(self.points),
            "neighbours": self.neighbours.iter().map(near).collect::<Vec<_>>(),
            "sheets": self.sheets,
            "side": self.side,
            "columns": COLUMNS,
        });
        // Nothing in the data can end the script element or open a comment.
        let text = data.to_string().replace('<', "\\u003c");
        let (before, after) = TEMPLATE.split_once(PLACE).context("the template has no place for data")?;
        Ok([before, &text, after].concat())
    }
}

/// Points in the unit square, one scale for both axes, to four digits.
fn unit(points: &[[f64; 2]]) -> Vec<[f64; 2]> {
    let of = |c: usize| {
        let (low, high) = points.iter().fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p[c]), h.max(p[c])));
        ((low + high) / 2.0, high - low)
    };
    let (x, y) = (of(0), of(1));
    let scale = x.1.max(y.1).max(1e-12);
    let place = |value: f64, center: f64| (((value - center) / scale + 0.5) * 1e4).round() / 1e4;
    points.iter().map(|p| [place(p[0], x.0), place(p[1], y.0)]).collect()
}
