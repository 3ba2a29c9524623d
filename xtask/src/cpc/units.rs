//! Figure 5: the patches that drive units of the images' encoder most.

use std::path::Path;

use anyhow::Result;
use candle_core::Device;
use contrastive_core::experiment::RunConfig;
use contrastive_core::train::{Method, config};
use contrastive_cpc::images::units::{UnitSearch, top_patches, write_grid};
use contrastive_cpc::images::{ImagesConfig, ImagesCpc};

use crate::data::Images;

/// Units, a row of the figure for each.
const UNITS: usize = 8;
/// Patches of each, of as many images.
const PATCHES: usize = 10;
/// White pixels between them.
const GAP: u32 = 2;

/// Draws the first units of the network that `run` has trained, with patches of `images`, into a PNG file.
pub fn draw(
    run: &Path,
    trained: &dyn Method,
    images: Images,
    device: &Device,
    workers: usize,
    file: &Path,
) -> Result<()> {
    let settings: RunConfig<ImagesConfig> = config::read(&run.join("config.toml"))?;
    let mut method = ImagesCpc::new(settings.method.clone(), settings.train.seed, device)?;
    method.load_backbone(&trained.backbone().into_iter().collect(), run)?;
    let units = (0..settings.method.encoder.width().min(UNITS)).collect();
    let search = UnitSearch { units, count: PATCHES, one_per_image: true };
    let found = top_patches(&method.model().encoder, images, &settings.eval, &search, device, workers)?;
    Ok(write_grid(file, &found, GAP)?)
}
