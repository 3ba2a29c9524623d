//! `cargo xtask convert`: published checkpoints of PyTorch, TensorFlow and Haiku to safetensors.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use contrastive_core::weights::published::{PLAIN, Published};
use contrastive_core::weights::tensorflow::Bundle;
use contrastive_core::weights::torch::Checkpoint;
use contrastive_core::weights::{Named, Request, convert, save_named};

/// Arguments of the verb.
#[derive(clap::Args)]
pub struct Arguments {
    /// The checkpoint, as its authors published it; of TensorFlow's the name before `.index`.
    file: PathBuf,
    /// The method that it is of: `moco-v2`, `dino`; `torchvision` and `timm` for networks without a method.
    #[arg(long)]
    method: Option<String>,
    /// The network that is wanted where there are several (`online`, `target`, `teacher`, `student`).
    #[arg(long)]
    branch: Option<String>,
    /// The folder to write to.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Attention heads of a transformer whose width is none of the usual ones.
    #[arg(long)]
    heads: Option<usize>,
    /// A Python name that the file uses beside the known ones (`package.module.Name`); its objects are skipped.
    #[arg(long = "skip", value_name = "NAME")]
    skip: Vec<String>,
    /// Print what is in the file and stop.
    #[arg(long)]
    list: bool,
}

/// Methods whose checkpoints are more than other names for ours.
const OTHERS: [&str; 5] = ["byol", "cmc", "cpc-speech", "simclr", "simclr-v2"];

/// Every layout that is known.
fn layouts() -> Vec<&'static Published> {
    let methods = [
        contrastive_instdisc::weights::PUBLISHED,
        contrastive_moco::weights::PUBLISHED,
        contrastive_swav::weights::PUBLISHED,
        contrastive_simsiam::weights::PUBLISHED,
        contrastive_dino::weights::PUBLISHED,
        PLAIN,
    ];
    methods.into_iter().flatten().collect()
}

/// Converts.
pub fn run(arguments: &Arguments) -> Result<()> {
    if Bundle::is(&arguments.file) {
        return tensorflow(arguments);
    }
    let mut checkpoint = Checkpoint::open_skipping(&arguments.file, &arguments.skip)?;
    if arguments.list {
        return list(&checkpoint);
    }
    let (Some(method), Some(out)) = (&arguments.method, &arguments.out) else {
        bail!("--method and --out are needed (--list prints what is in the file)");
    };
    if let Some(named) = named(&mut checkpoint, method, arguments.branch.as_deref())? {
        return told(&named, checkpoint.path(), out);
    }
    if ["cpc", "cpc-speech"].contains(&method.as_str()) {
        let (run, file) = contrastive_cpc::weights::convert_cpc_audio(&mut checkpoint, out)?;
        println!("cpc-speech (facebookresearch/CPC_audio): {}, `online`", run.method.backbone());
        println!("{}: `cargo xtask embed --weights {}` embeds recordings", file.display(), out.display());
        return Ok(());
    }
    let layouts = layouts();
    let request = Request {
        method,
        branch: arguments.branch.as_deref(),
        heads: arguments.heads,
        layouts: &layouts,
        others: &OTHERS,
    };
    let converted = convert(&mut checkpoint, request, out)?;
    let backbone = converted.backbone.map_or("no backbone".to_string(), |backbone| backbone.to_string());
    println!("{}: {backbone}, `{}`", converted.layout.describe(), converted.branch);
    for (file, tensors) in &converted.written {
        println!("{}: {tensors} tensors", file.display());
    }
    if converted.left_out > 0 {
        println!("{} tensors were left out", converted.left_out);
    }
    Ok(())
}

/// The network of a layout that is more than other names; none for the others.
fn named(checkpoint: &mut Checkpoint, method: &str, branch: Option<&str>) -> Result<Option<Named>> {
    Ok(match method {
        "byol" => Some(contrastive_byol::weights::from_haiku(checkpoint, branch)?),
        "cmc" => Some(contrastive_cmc::weights::from_official(checkpoint)?),
        _ => None,
    })
}

/// Writes a network and says so.
fn told(named: &Named, file: &Path, out: &Path) -> Result<()> {
    let (backbone, written) = save_named(named, file, out)?;
    println!("{} ({}): {backbone}, `{}`", named.method, named.repository, named.branch);
    for (file, tensors) in &written {
        println!("{}: {tensors} tensors", file.display());
    }
    if named.left_out > 0 {
        println!("{} tensors were left out", named.left_out);
    }
    Ok(())
}

/// A checkpoint of SimCLR's TensorFlow code.
fn tensorflow(arguments: &Arguments) -> Result<()> {
    use contrastive_simclr::weights::from_tensorflow;
    let bundle = Bundle::open(&arguments.file)?;
    if arguments.list {
        for (name, variable) in bundle.variables() {
            let dtype = variable.dtype.map_or("other".to_string(), |dtype| format!("{dtype:?}"));
            println!("\t{}\t{dtype}\t{:?}", name.escape_debug(), variable.shape);
        }
        return Ok(());
    }
    let (Some(method), Some(out)) = (&arguments.method, &arguments.out) else {
        bail!("--method and --out are needed (--list prints what is in the file)");
    };
    if !["simclr", "simclr-v2"].contains(&method.as_str()) {
        bail!(
            "{}: TensorFlow's checkpoints are read of simclr and simclr-v2, not of {method}",
            arguments.file.display()
        );
    }
    let named = from_tensorflow(&bundle, method)?;
    told(&named, bundle.path(), out)
}

/// One line for each tensor: dictionary, name, type and shape.
fn list(checkpoint: &Checkpoint) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for (place, table) in checkpoint.tables() {
        for (name, stored) in table {
            let dtype = stored.dtype().map_or("other".to_string(), |dtype| format!("{dtype:?}"));
            let (place, name) = (place.escape_debug(), name.escape_debug());
            let line = writeln!(out, "{place}\t{name}\t{dtype}\t{:?}", stored.shape());
            // Who reads the lines may have seen enough.
            if line.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::methods::Plan;

    /// What TensorFlow wrote with the names of SimCLR's code (`fixtures/make_tensorflow.py`) has, read and converted here,
    /// the features that TensorFlow computes.
    #[test]
    fn tensorflows_simclr_has_tensorflows_features() -> Result<()> {
        use contrastive_core::augment::Image;
        use contrastive_core::nn::{Mode, Module, Stem};
        use contrastive_core::weights::{Hints, Pretrained};

        #[derive(serde::Deserialize)]
        struct Golden {
            side: usize,
            image: Vec<u8>,
            features: Vec<f32>,
        }
        let fixtures = crate::tables::root().join("crates/simclr/tests/fixtures");
        let golden: Golden = serde_json::from_slice(&std::fs::read(fixtures.join("simclr.json"))?)?;
        let folder = tempfile::tempdir()?;
        let mut arguments = Arguments {
            file: fixtures.join("simclr.ckpt"),
            method: Some("simclr".into()),
            branch: None,
            out: Some(folder.path().to_path_buf()),
            heads: None,
            skip: Vec::new(),
            list: false,
        };
        run(&arguments)?;
        let read = Pretrained::open(folder.path(), Hints::default())?;
        let contrastive_core::nn::BackboneConfig::Resnet(config) = read.config else {
            bail!("{}", read.config)
        };
        assert_eq!((config.depth, config.base_width, config.stem), (18, 1, Stem::ImagenetSame));
        let heads = contrastive_core::weights::load(&folder.path().join("heads.safetensors"))?.0;
        assert_eq!(heads["head_supervised.weight"].dims(), [3, 8]);
        let (backbone, _) = read.build(&Device::Cpu)?;
        let pixels: Vec<f32> = golden.image.iter().map(|&v| f32::from(v) / 255.0).collect();
        let x = candle_core::Tensor::from_vec(pixels, (1, 3, golden.side, golden.side), &Device::Cpu)?;
        let features = backbone.forward(&x, &Mode::eval())?.flatten_all()?.to_vec1::<f32>()?;
        let largest = golden.features.iter().fold(0f32, |m, x| m.max(x.abs()));
        for (ours, theirs) in features.iter().zip(&golden.features) {
            assert!((ours - theirs).abs() <= 1e-4 * largest, "{features:?} {:?}", golden.features);
        }
        // Pixels of 0 to 1, without mean and deviation.
        let image = Image::new(golden.side, golden.side, 3, vec![255; 3 * golden.side * golden.side])?;
        let key = contrastive_core::rng::Key::new(0, contrastive_core::rng::Purpose::Eval);
        let view = contrastive_core::data::Transform::apply(&read.preprocessing, &image, key)?;
        assert!(view[0].data.iter().all(|&v| v == 1.0));
        arguments.method = Some("byol".into());
        assert!(run(&arguments).is_err_and(|e| e.to_string().contains("not of byol")));
        Ok(())
    }

    /// The names of `prefix` followed by each of `leaves`.
    fn names(prefix: &str, leaves: &[&str]) -> Vec<String> {
        leaves.iter().map(|leaf| format!("{prefix}.{leaf}")).collect()
    }

    /// Method, preset, settings that make it small, and the names beside the backbone.
    type Case = (&'static str, &'static str, &'static [&'static str], Vec<Vec<String>>);

    const NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

    /// What the authors' heads hold, under the names that conversion gives them, is what the method's own model has.
    #[test]
    fn heads_have_the_names_of_the_models() -> Result<()> {
        let linear = ["weight", "bias"];
        let running = &NORM[2..];
        let cases: [Case; 7] = [
            ("instdisc", "imagenet", &["base_width=2"], vec![names("head.0", &linear)]),
            ("moco-v1", "imagenet", &["base_width=2"], vec![names("head.0", &linear)]),
            (
                "moco-v2",
                "imagenet",
                &["base_width=2"],
                vec![names("head.0", &linear), names("head.2", &linear)],
            ),
            (
                "moco-v3",
                "imagenet-100",
                &["base_width=2"],
                vec![
                    names("projector", &["0.weight", "3.weight"]),
                    names("projector.1", &NORM),
                    names("projector.4", running),
                    names("predictor", &["0.weight", "3.weight"]),
                    names("predictor.1", &NORM),
                ],
            ),
            (
                "swav",
                "imagenet",
                &["base_width=2"],
                vec![
                    names("projector.0", &linear),
                    names("projector.1", &NORM),
                    names("projector.3", &linear),
                    names("prototypes", &["weight"]),
                ],
            ),
            (
                "simsiam",
                "imagenet-repository-256",
                &["base_width=2"],
                vec![
                    names("projector", &["0.weight", "3.weight", "6.weight"]),
                    names("projector.1", &NORM),
                    names("projector.4", &NORM),
                    names("projector.7", running),
                    names("predictor.0", &["weight"]),
                    names("predictor.1", &NORM),
                    names("predictor.3", &linear),
                ],
            ),
            (
                "dino",
                "imagenet",
                &["depth=1"],
                vec![
                    names("head.mlp.0", &linear),
                    names("head.mlp.2", &linear),
                    names("head.mlp.4", &linear),
                    names("head.last_layer", &["weight_g", "weight_v"]),
                ],
            ),
        ];
        for (method, preset, set, expected) in cases {
            let set: Vec<String> = set.iter().map(|set| format!("method.backbone.{set}")).collect();
            let mut expected = expected.concat();
            expected.sort();
            let model = Plan::new(method, preset, None, &set)?.untrained(&Device::Cpu)?;
            let mut found: Vec<String> = model.params().entries().into_iter().map(|e| e.name).collect();
            found.retain(|name| !name.starts_with("backbone."));
            found.sort();
            assert_eq!(found, expected, "{method}");
        }
        Ok(())
    }
}
