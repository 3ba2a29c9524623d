//! Images: decoding and augmentation, through the loader as a run has it.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};
use contrastive_core::augment::{
    BlurKernel, ColorSpace, IMAGENET_MEAN, IMAGENET_STD, Image, Op, Recipe, ViewRecipe,
};
use contrastive_core::data::{Array, Batches, InMemory, Loader, LoaderOptions, Transform, decode};
use contrastive_core::rng::{Key, Purpose};

use crate::measure::{Timing, time};

/// Small pictures, photographs as files, and the latter's size.
const SMALL: usize = 2048;
const FILES: usize = 200;
const PHOTO: (usize, usize) = (500, 375);

/// SimCLR's views with PIL's blur, as lightly makes them.
fn recipe(size: usize, s: f64) -> Recipe {
    let ops = vec![
        Op::RandomResizedCrop {
            size,
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            interpolation: Default::default(),
        },
        Op::RandomFlip { p: 0.5 },
        Op::ColorJitter { brightness: 0.8 * s, contrast: 0.8 * s, saturation: 0.8 * s, hue: 0.2 * s, p: 0.8 },
        Op::RandomGrayscale { p: 0.2 },
        Op::RandomBlur { p: 0.5, sigma: [0.1, 2.0], kernel: BlurKernel::Pil },
        Op::Normalize { mean: IMAGENET_MEAN.to_vec(), std: IMAGENET_STD.to_vec() },
    ];
    Recipe { color: ColorSpace::Rgb, views: vec![ViewRecipe { name: "view".into(), count: 2, ops }] }
}

/// A picture with edges, gradients and a little noise.
fn picture(width: usize, height: usize, seed: u64) -> Result<Image> {
    let mut stream = Key::new(seed, Purpose::Data).name("picture").stream();
    let (fx, fy) = (stream.uniform(0.01, 0.2), stream.uniform(0.01, 0.2));
    let mut data = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let wave = (x as f64 * fx).sin() + (y as f64 * fy).cos();
            let edge = if (x / 40 + y / 40) % 2 == 0 { 40.0 } else { 0.0 };
            for c in 0..3 {
                let value = 100.0 + 40.0 * wave + edge + 15.0 * f64::from(c) + stream.uniform(-6.0, 6.0);
                data.push(value.clamp(0.0, 255.0) as u8);
            }
        }
    }
    Ok(Image::new(width, height, 3, data)?)
}

fn small() -> Result<Vec<Image>> {
    (0..SMALL).map(|i| picture(32, 32, i as u64)).collect()
}

/// Photographs as JPEG files of quality 90.
fn jpegs() -> Result<Vec<Vec<u8>>> {
    let (width, height) = PHOTO;
    let file = |i: usize| {
        let picture = picture(width, height, i as u64)?;
        let mut bytes = Cursor::new(Vec::new());
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
        let kind = image::ExtendedColorType::Rgb8;
        image::ImageEncoder::write_image(encoder, &picture.data, width as u32, height as u32, kind)?;
        Ok(bytes.into_inner())
    };
    (0..FILES).map(file).collect()
}

/// Writes the pictures of the image cases for other programs: `0000.jpg` and so on, and all small pictures one after
/// the other in `small.bin` (2,048 of 32 x 32 x 3 bytes).
///
/// # Errors
/// A folder that cannot be written.
pub fn write_pictures(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for (i, bytes) in jpegs()?.iter().enumerate() {
        std::fs::write(folder.join(format!("{i:04}.jpg")), bytes)?;
    }
    let small: Vec<u8> = small()?.into_iter().flat_map(|image| image.data).collect();
    std::fs::write(folder.join("small.bin"), small)?;
    Ok(())
}

/// One pass of the loader over a source.
fn epoch<B: Batches>(loader: &B, items: usize, repeats: usize) -> Result<Timing> {
    let mut epoch = 0;
    time(items, repeats, || {
        for batch in loader.epoch(epoch, 0) {
            batch?;
        }
        epoch += 1;
        Ok(())
    })
}

fn options(batch: usize) -> LoaderOptions {
    LoaderOptions { workers: 2, drop_last: false, ..LoaderOptions::new(batch, 0) }
}

pub(super) fn augment_cifar(batch: usize, repeats: usize) -> Result<Timing> {
    let source = InMemory::unlabelled("pictures", small()?)?;
    epoch(&Loader::new(source, recipe(32, 0.5), options(batch))?, 2 * SMALL, repeats)
}

/// Decodes, then augments: a source of files without the disk.
struct Jpeg {
    files: Vec<Vec<u8>>,
    views: Recipe,
}

impl Transform<Image> for Jpeg {
    fn apply(&self, sample: &Image, key: Key) -> contrastive_core::Result<Vec<Array>> {
        // The sample is a 1x1 stand-in; its key says which file is meant.
        let _ = sample;
        let file = &self.files[key.sample as usize % self.files.len()];
        self.views.apply(&decode::decode(file, "picture.jpg".as_ref())?, key)
    }
}

pub(super) fn augment_jpeg(batch: usize, repeats: usize) -> Result<Timing> {
    let stand_ins = (0..FILES).map(|_| Image::new(1, 1, 3, vec![0; 3])).collect::<Result<Vec<_>, _>>()?;
    let source = InMemory::unlabelled("pictures", stand_ins)?;
    let transform = Jpeg { files: jpegs()?, views: recipe(224, 1.0) };
    epoch(&Loader::new(source, transform, options(batch))?, 2 * FILES, repeats)
}

pub(super) fn decode_jpeg(batch: usize, repeats: usize) -> Result<Timing> {
    let files = jpegs()?;
    time(batch, repeats, || {
        for file in files.iter().cycle().take(batch) {
            decode::decode(file, "picture.jpg".as_ref())?;
        }
        Ok(())
    })
}
