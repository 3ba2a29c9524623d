//! The patches that drive units of the encoder most (the paper's figure 5).
//!
//! The paper does not say which layer its neurons are from: here they are the elements of the patches' vectors z.

use std::path::Path;

use candle_core::{DType, Device};
use contrastive_core::augment::{EvalTransform, Image};
use contrastive_core::data::{SequentialLoader, Source};
use contrastive_core::nn::{Mode, PatchNet, patches};
use contrastive_core::{Error, Result};
use image::{ImageFormat, Rgb, RgbImage};

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSearch {
    /// Units, elements of z.
    pub units: Vec<usize>,
    /// Patches for each of them.
    pub count: usize,
    /// At most one patch of an image for each unit: overlapping neighbours otherwise come together.
    pub one_per_image: bool,
}

/// A patch and how much it drives a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitPatch {
    /// The image's index in its source.
    pub sample: u64,
    /// Row of the patch in the grid.
    pub row: usize,
    /// Column of the patch in the grid.
    pub column: usize,
    /// The unit's value.
    pub activation: f32,
    /// The pixels as the encoder sees them, without normalisation: `[side, side, 3]`.
    pub pixels: Vec<u8>,
}

/// For each unit, the patches of `source` under `transform` with the largest values, in descending order; of equal values,
/// the earlier patch.
///
/// # Errors
/// A unit beyond the vectors' width, no patch to look for, images that the encoder cannot take.
pub fn top_patches<S>(
    encoder: &PatchNet,
    source: S,
    transform: &EvalTransform,
    search: &UnitSearch,
    device: &Device,
    workers: usize,
) -> Result<Vec<Vec<UnitPatch>>>
where
    S: Source<Sample = Image> + 'static,
{
    const BATCH: usize = 64;
    let config = encoder.config();
    if let Some(unit) = search.units.iter().find(|&&unit| unit >= config.width()) {
        return Err(Error::config("units", format!("{unit} is not in 0..{}", config.width())));
    }
    if search.count == 0 || search.units.is_empty() {
        return Err(Error::config("units", "needs a unit, and a patch for each, at least"));
    }
    let mut best: Vec<Vec<UnitPatch>> = vec![Vec::new(); search.units.len()];
    let loader = SequentialLoader::new(source, transform.clone(), BATCH, workers)?;
    for batch in loader.batches() {
        let batch = batch?;
        let [x] = batch.views.as_slice() else {
            return Err(Error::shape("units", "1 view", &[batch.views.len()]));
        };
        let vectors = encoder.vectors(&x.to_device(device)?, None, &Mode::eval())?;
        let (_, rows, columns, width) = vectors.dims4()?;
        let vectors =
            vectors.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let parts = patches(x, config.patch, config.stride, None)?.flatten_all()?.to_vec1::<f32>()?;
        let size = config.in_channels * config.patch * config.patch;
        for (best, &unit) in best.iter_mut().zip(&search.units) {
            for (i, vector) in vectors.chunks_exact(width).enumerate() {
                let (sample, place) = (batch.indices[i / (rows * columns)], i % (rows * columns));
                let activation = vector[unit];
                let pixels = || shown(&parts[i * size..(i + 1) * size], transform);
                let (row, column) = (place / columns, place % columns);
                offer(best, search, activation, sample, || UnitPatch {
                    sample,
                    row,
                    column,
                    activation,
                    pixels: pixels(),
                });
            }
        }
    }
    Ok(best)
}

/// Puts a patch into its place if it is among the best. Patches come in order, so equal ones stand behind.
fn offer(
    best: &mut Vec<UnitPatch>,
    search: &UnitSearch,
    activation: f32,
    sample: u64,
    make: impl FnOnce() -> UnitPatch,
) {
    let place = best.partition_point(|other| other.activation >= activation);
    if place >= search.count || activation.is_nan() {
        return;
    }
    if search.one_per_image
        && let Some(other) = best.iter().position(|other| other.sample == sample)
    {
        if other < place {
            return;
        }
        best.remove(other);
    }
    best.insert(place, make());
    best.truncate(search.count);
}

/// Normalised planes as interleaved bytes of three channels.
fn shown(planes: &[f32], transform: &EvalTransform) -> Vec<u8> {
    let channels = transform.mean.len().max(1);
    let area = planes.len() / channels;
    let byte = |channel: usize, place: usize| {
        let value = planes[channel * area + place] * transform.std[channel] + transform.mean[channel];
        (value * 255.0).round().clamp(0.0, 255.0) as u8
    };
    (0..area).flat_map(|place| [0, 1, 2].map(|c| byte(c.min(channels - 1), place))).collect()
}

/// Writes a PNG file with a row of patches for each unit, `gap` white pixels apart.
///
/// # Errors
/// Nothing to draw, patches of different sizes, a file that cannot be written.
pub fn write_grid(path: &Path, units: &[Vec<UnitPatch>], gap: u32) -> Result<()> {
    let columns = units.iter().map(Vec::len).max().unwrap_or(0);
    let first = units.iter().flatten().next();
    let Some(first) = first else { return Err(Error::data("units", "no patches to draw")) };
    let side = (first.pixels.len() / 3).isqrt();
    if units.iter().flatten().any(|patch| patch.pixels.len() != 3 * side * side) {
        return Err(Error::shape(
            "unit patches",
            format!("{side} x {side} x 3 bytes"),
            &[first.pixels.len()],
        ));
    }
    let cell = side as u32 + gap;
    let extent = |count: usize| count as u32 * cell + gap;
    let mut picture = RgbImage::from_pixel(extent(columns), extent(units.len()), Rgb([255; 3]));
    for (row, patches) in units.iter().enumerate() {
        for (column, patch) in patches.iter().enumerate() {
            let (left, top) = (gap + column as u32 * cell, gap + row as u32 * cell);
            for (i, pixel) in patch.pixels.as_chunks::<3>().0.iter().enumerate() {
                picture.put_pixel(left + (i % side) as u32, top + (i / side) as u32, Rgb(*pixel));
            }
        }
    }
    picture.save_with_format(path, ImageFormat::Png).map_err(|e| Error::format(path, e))
}
