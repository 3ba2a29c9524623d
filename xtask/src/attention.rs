//! `cargo xtask attention`: where the class token of a vision transformer looks (DINO, figures 1 and 3).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use contrastive_core::augment::{
    ColorSpace, CropBox, EvalTransform, IMAGENET_MEAN, IMAGENET_STD, Image, Interpolation, crop,
    resize_shorter, to_array,
};
use contrastive_core::data::decode::decode;
use contrastive_core::data::{ImageFolder, Source};
use contrastive_core::nn::{BackboneConfig, ParamStore, VisionTransformer, VitConfig};
use contrastive_core::train::Checkpoint;
use contrastive_core::train::config::read;
use contrastive_core::weights::{self, load_encoder};
use serde_json::Value;

use crate::methods::Plan;
use crate::train::device;
use crate::weights::pretrained;

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run directory: its encoder, or its newest checkpoint while there is no encoder.
    #[arg(long, required_unless_present = "weights", conflicts_with = "weights")]
    run: Option<PathBuf>,
    /// Weights of a vision transformer: an exported or converted encoder, or a file or folder of timm's or of
    /// `transformers`, or `hub:OWNER/NAME`.
    #[arg(long)]
    weights: Option<String>,
    /// An image, or a folder of images.
    #[arg(long)]
    images: PathBuf,
    /// The folder for the pictures.
    #[arg(long)]
    out: PathBuf,
    /// The shorter side of the images in pixels, before both sides are cut to multiples of the patch.
    #[arg(long, default_value_t = 480)]
    size: usize,
    /// Attention heads of weights that do not tell and whose width is none of the usual ones.
    #[arg(long)]
    heads: Option<usize>,
    /// `cpu`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// Writes `NAME-head0.png` and so on, and `NAME-mean.png`, each with the image on the left and the map over it on the
/// right, for each image.
pub fn run(arguments: &Arguments) -> Result<()> {
    let device = device(&arguments.device)?;
    let network = match (&arguments.run, &arguments.weights) {
        (Some(run), _) => Network::of_run(run, &device)?,
        (None, Some(file)) => Network::of_file(file, arguments.heads, &device)?,
        (None, None) => bail!("--run or --weights is needed"),
    };
    std::fs::create_dir_all(&arguments.out).with_context(|| arguments.out.display().to_string())?;
    let mut drawn = 0;
    for (name, image) in images(&arguments.images)? {
        match image.and_then(|image| network.maps(&image, arguments.size)) {
            Ok((shown, maps)) => drawn += draw(&arguments.out, &name, &shown, &maps)?,
            Err(error) => eprintln!("warning: skipped {name}: {error:#}"),
        }
    }
    if drawn == 0 {
        bail!("{}: no image could be shown", arguments.images.display());
    }
    println!("{drawn} pictures in {}", arguments.out.display());
    Ok(())
}

/// File name and content of each image.
fn images(path: &Path) -> Result<Vec<(String, Result<Image>)>> {
    if path.is_dir() {
        let folder = ImageFolder::open(path)?;
        let of = |i| (folder.sample_name(i).replace(['/', '\\'], "-"), folder.sample(i).map_err(Into::into));
        return Ok((0..folder.len()).map(of).collect());
    }
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(vec![(name, Ok(decode(&bytes, path)?))])
}

/// A vision transformer and what it wants of an image.
struct Network {
    vit: VisionTransformer,
    patch: usize,
    mean: Vec<f32>,
    std: Vec<f32>,
    device: Device,
}

impl Network {
    /// The evaluated backbone of a run.
    fn of_run(run: &Path, device: &Device) -> Result<Self> {
        let config: Value = read(&run.join("config.toml"))?;
        let backbone = config.pointer("/method/backbone").cloned().unwrap_or_default();
        let vit = match serde_json::from_value(backbone) {
            Ok(BackboneConfig::Vit(vit)) => vit,
            Ok(other) => bail!("{}: `{other}` is no vision transformer", run.display()),
            Err(_) => bail!("{}: no vision transformer in its configuration", run.display()),
        };
        let eval = config.get("eval").cloned().and_then(|eval| serde_json::from_value(eval).ok());
        let encoder = run.join("encoder.safetensors");
        let (tensors, source) =
            if encoder.is_file() { (load_encoder(&encoder)?.0, encoder) } else { newest(run)? };
        Self::new(&tensors, &source, vit, eval, device)
    }

    /// An encoder of ours, or weights from elsewhere.
    fn of_file(file: &str, heads: Option<usize>, device: &Device) -> Result<Self> {
        let read = pretrained(file, heads)?;
        let BackboneConfig::Vit(vit) = read.config else {
            bail!("{file}: `{}` is no vision transformer", read.config)
        };
        Self::new(&read.tensors, &read.source, vit, Some(read.preprocessing), device)
    }

    fn new(
        tensors: &HashMap<String, Tensor>,
        source: &Path,
        config: VitConfig,
        eval: Option<EvalTransform>,
        device: &Device,
    ) -> Result<Self> {
        let params = ParamStore::new(0, device);
        let vit = VisionTransformer::new(&params.builder(), &VitConfig { drop_path: 0.0, ..config })?;
        params.load(tensors, source)?;
        let (mean, std) = match eval {
            Some(eval) => (eval.mean, eval.std),
            None => (IMAGENET_MEAN.to_vec(), IMAGENET_STD.to_vec()),
        };
        Ok(Self { vit, patch: config.patch, mean, std, device: device.clone() })
    }

    /// The image as the network sees it, and the map of each head, row by row in patches.
    fn maps(&self, image: &Image, size: usize) -> Result<(Image, Vec<Vec<f32>>)> {
        let image = resize_shorter(&image.to_rgb(), size.max(self.patch), Interpolation::Bicubic)?;
        let cut = |side: usize| side - side % self.patch;
        let area = CropBox { x: 0, y: 0, width: cut(image.width), height: cut(image.height) };
        let image = crop(&image, area)?;
        let array = to_array(&image, ColorSpace::Rgb, Some((self.mean.as_slice(), self.std.as_slice())))?;
        let x = Tensor::from_vec(array.data, (1, 3, image.height, image.width), &self.device)?;
        let attention = self.vit.last_attention(&x)?.squeeze(0)?.to_device(&Device::Cpu)?; // [heads, 1 + P]
        let patches = attention.dim(1)? - 1;
        Ok((image, attention.narrow(1, 1, patches)?.to_vec2()?))
    }
}

/// The evaluated backbone in the newest checkpoint of a run, and the file.
fn newest(run: &Path) -> Result<(HashMap<String, Tensor>, PathBuf)> {
    let folder = contrastive_core::train::CheckpointFolder::new(&run.join("checkpoints"));
    let Some((_, path)) = folder.list()?.into_iter().max() else {
        bail!("{}: neither an encoder nor a checkpoint", run.display());
    };
    let name = Checkpoint::load(&path)?.header().method.clone();
    let mut method = Plan::read(&name, &run.join("config.toml"))?.untrained(&Device::Cpu)?;
    let all = weights::load(&path)?.0;
    let section = |prefix: &str| -> HashMap<String, Tensor> {
        let own =
            all.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone())));
        own.collect()
    };
    method.params().load(&section("model/"), &path)?;
    method.load_state(&section("state/"))?;
    Ok((method.backbone().into_iter().collect(), path))
}

/// Writes the maps of all heads and their mean, each beside the image; the number of pictures.
fn draw(folder: &Path, name: &str, image: &Image, maps: &[Vec<f32>]) -> Result<usize> {
    let mean: Vec<f32> = (0..maps.first().map_or(0, Vec::len))
        .map(|i| maps.iter().map(|map| map[i]).sum::<f32>() / maps.len() as f32)
        .collect();
    let named = maps.iter().enumerate().map(|(i, map)| (format!("head{i}"), map));
    let mut drawn = 0;
    for (part, map) in named.chain([("mean".to_string(), &mean)]) {
        let path = folder.join(format!("{name}-{part}.png"));
        let picture = picture(image, map)?;
        picture.save(&path).with_context(|| path.display().to_string())?;
        drawn += 1;
    }
    Ok(drawn)
}

/// How much of a pixel is the map's colour.
const OPACITY: f32 = 0.65;

/// The image on the left; on the right the map over its gray values, from its least value (dark) to its largest
/// (bright), one colour for each patch.
fn picture(shown: &Image, map: &[f32]) -> Result<image::RgbImage> {
    let (width, height) = (shown.width, shown.height);
    // Square patches: P = (H / p) (W / p).
    let patch = (((width * height) as f64 / map.len().max(1) as f64).sqrt().round() as usize).max(1);
    let (low, high) = map.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    let scaled = |x: f32| if high > low { (x - low) / (high - low) } else { 0.0 };
    let mut picture = image::RgbImage::new(2 * width as u32, height as u32);
    for (i, pixel) in shown.data.as_chunks::<3>().0.iter().enumerate() {
        let (x, y) = (i % width, i / width);
        let value = map.get(y / patch * (width / patch) + x / patch).copied().unwrap_or(low);
        let gray = pixel.iter().map(|&v| f32::from(v)).sum::<f32>() / 3.0;
        let over = colour(scaled(value)).map(|c| (OPACITY * c + (1.0 - OPACITY) * gray).round() as u8);
        picture.put_pixel(x as u32, y as u32, image::Rgb(*pixel));
        picture.put_pixel((width + x) as u32, y as u32, image::Rgb(over));
    }
    Ok(picture)
}

/// matplotlib's viridis at seven places, straight lines between them.
const VIRIDIS: [[f32; 3]; 7] = [
    [68.0, 1.0, 84.0],
    [68.0, 57.0, 131.0],
    [49.0, 104.0, 142.0],
    [33.0, 145.0, 140.0],
    [53.0, 183.0, 121.0],
    [144.0, 215.0, 67.0],
    [253.0, 231.0, 37.0],
];

/// The colour of a value in `[0, 1]`.
fn colour(value: f32) -> [f32; 3] {
    let place = value.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f32;
    let from = (place as usize).min(VIRIDIS.len() - 2);
    let part = place - from as f32;
    let (a, b) = (VIRIDIS[from], VIRIDIS[from + 1]);
    [0, 1, 2].map(|c| a[c] + part * (b[c] - a[c]))
}

#[cfg(test)]
mod tests {
    use contrastive_core::nn::{Init, ResNet, ResNetConfig};

    use super::*;

    const TINY: VitConfig = VitConfig {
        image: 32,
        patch: 8,
        dim: 24,
        depth: 2,
        heads: 3,
        mlp_ratio: 2,
        in_channels: 3,
        drop_path: 0.0,
        interpolation: contrastive_core::nn::Interpolation::Dino,
        norm_eps: 1e-6,
    };

    /// Random weights in a file, named as in an official full checkpoint.
    fn tiny(path: &Path) -> Result<VisionTransformer> {
        let params = ParamStore::new(3, &Device::Cpu);
        let vit = VisionTransformer::new(&params.builder().pp("backbone"), &TINY)?;
        params.builder().param("head.mlp.0.weight", (2, 24), Init::Const(0.0))?;
        weights::save(path, &params.tensors(), &Value::Null)?;
        Ok(vit)
    }

    fn arguments(folder: &Path, weights: &str) -> Arguments {
        Arguments {
            run: None,
            weights: Some(folder.join(weights).to_string_lossy().into_owned()),
            images: folder.join("images"),
            out: folder.join("out"),
            size: 50,
            heads: Some(3),
            device: "cpu".into(),
        }
    }

    fn pictures(folder: &Path) -> Result<()> {
        std::fs::create_dir(folder.join("images"))?;
        let picture = image::RgbImage::from_fn(40, 64, |x, y| image::Rgb([(x * 6) as u8, (y * 3) as u8, 77]));
        picture.save(folder.join("images/a.png"))?;
        std::fs::write(folder.join("images/broken.png"), b"nothing")?;
        Ok(())
    }

    #[test]
    fn one_picture_for_each_head_and_the_mean() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let vit = tiny(&folder.path().join("vit.safetensors"))?;
        pictures(folder.path())?;
        run(&arguments(folder.path(), "vit.safetensors"))?;
        let mut names: Vec<String> = std::fs::read_dir(folder.path().join("out"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        names.sort();
        assert_eq!(names, ["a.png-head0.png", "a.png-head1.png", "a.png-head2.png", "a.png-mean.png"]);
        // 40 x 64 pixels become 50 x 80, of which 48 x 80 are whole patches.
        let drawn = image::open(folder.path().join("out/a.png-head1.png"))?.to_rgb8();
        assert_eq!(drawn.dimensions(), (96, 80));
        // The maps are the network's own.
        let network = Network::of_file(
            &folder.path().join("vit.safetensors").to_string_lossy(),
            Some(3),
            &Device::Cpu,
        )?;
        let image = decode(&std::fs::read(folder.path().join("images/a.png"))?, Path::new("a.png"))?;
        let (shown, maps) = network.maps(&image, 50)?;
        let norm = Some((IMAGENET_MEAN.as_slice(), IMAGENET_STD.as_slice()));
        let x =
            Tensor::from_vec(to_array(&shown, ColorSpace::Rgb, norm)?.data, (1, 3, 80, 48), &Device::Cpu)?;
        let expected = vit.last_attention(&x)?.squeeze(0)?.narrow(1, 1, 60)?.to_vec2::<f32>()?;
        assert_eq!(maps, expected);
        // The brightest patch of the picture is the map's largest.
        let best = (0..60).max_by(|&a, &b| maps[1][a].total_cmp(&maps[1][b])).unwrap_or_default();
        let (x, y) = ((best % 6 * 8) as u32, (best / 6 * 8) as u32);
        let gray = drawn.get_pixel(x, y).0.iter().map(|&v| f32::from(v)).sum::<f32>() / 3.0;
        let over = colour(1.0).map(|c| (OPACITY * c + (1.0 - OPACITY) * gray).round() as u8);
        assert_eq!(drawn.get_pixel(48 + x, y).0, over);
        Ok(())
    }

    #[test]
    fn other_networks_and_pictures_are_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        pictures(folder.path())?;
        let params = ParamStore::new(0, &Device::Cpu);
        ResNet::new(&params.builder(), &ResNetConfig { base_width: 4, ..ResNetConfig::cifar(18) })?;
        weights::save(&folder.path().join("resnet.safetensors"), &params.tensors(), &Value::Null)?;
        let message =
            |arguments: &Arguments| run(arguments).err().map(|e| format!("{e:#}")).unwrap_or_default();
        let refused = message(&arguments(folder.path(), "resnet.safetensors"));
        assert!(refused.contains("no vision transformer"), "{refused}");
        tiny(&folder.path().join("vit.safetensors"))?;
        let wrong = Arguments { heads: Some(5), ..arguments(folder.path(), "vit.safetensors") };
        assert!(message(&wrong).contains("heads"), "{}", message(&wrong));
        let images = folder.path().join("images/broken.png");
        let wrong = Arguments { images, ..arguments(folder.path(), "vit.safetensors") };
        assert!(message(&wrong).contains("broken.png"), "{}", message(&wrong));
        let nowhere = Arguments { images: folder.path().join("none"), ..wrong };
        assert!(message(&nowhere).contains("none"), "{}", message(&nowhere));
        Ok(())
    }
}
