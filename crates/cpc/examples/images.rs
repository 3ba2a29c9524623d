//! Trains CPC on images and probes its encoder beside the fresh one:
//!
//! ```sh
//! cargo run --release --features data --example images -- DATA RUN [PRESET] [minutes=M] [units=FILE.png] [key=value ...]
//! ```
//!
//! DATA is `sign-digits` or `fashion-mnist-small` (both come with the library), a folder of CIFAR's binary files, or one
//! with `train` and `test` folders of images, a folder for each class. `units=FILE.png` draws the patches that drive the
//! first units of the encoder most, a row for each, as the paper's figure 5 does. `minutes=M` ends training after about M
//! minutes; run it again to go on.

mod common;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use candle_core::Device;
use contrastive_core::augment::{EvalTransform, Image};
use contrastive_core::data::{Source, Split, embedded, open};
use contrastive_core::eval::{Protocol, metric};
use contrastive_core::experiment::{features, fit};
use contrastive_core::train::config::layered;
use contrastive_core::train::{Method, Outcome};
use contrastive_cpc::images::units::{UnitSearch, top_patches, write_grid};
use contrastive_cpc::images::{ImagesCpc, recipe};

use common::{Watch, preset, take};

type Images = Arc<dyn Source<Sample = Image>>;

fn source(name: &str, split: Split) -> Result<Images> {
    match name {
        "sign-digits" => Ok(Arc::new(embedded::sign_digits(split)?)),
        "fashion-mnist-small" => Ok(Arc::new(embedded::fashion_mnist(split)?)),
        path => Ok(open(path, split)?),
    }
}

fn probes(title: &str, method: &ImagesCpc, data: &str, eval: &EvalTransform) -> Result<()> {
    let of = |split| -> Result<_> {
        Ok(features(|x| method.features(x), source(data, split)?, eval, &Device::Cpu, 2)?.0)
    };
    let (train, test) = (of(Split::Train)?, of(Split::Test)?);
    print!("{title}:");
    for protocol in [Protocol::KnnK20T007V1, Protocol::LinearLbfgsV1] {
        let top1 = metric(&protocol.evaluate(&train, &test)?, "top1").unwrap_or(f64::NAN);
        print!(" {} {:.1} %", protocol.name(), 100.0 * top1);
    }
    println!();
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let minutes = take(&mut arguments, "minutes").map_or(Ok(f64::INFINITY), |text| text.parse())?;
    let picture = take(&mut arguments, "units");
    let [data, dir, rest @ ..] = arguments.as_slice() else {
        bail!("usage: images DATA RUN [PRESET] [minutes=M] [units=FILE.png] [key=value ...]");
    };
    let (name, set) = preset(rest, "images-smoke");
    let run = layered(&recipe::preset(name)?, None, set)?;

    let mut watch = Watch::new(minutes, true);
    let (trained, outcome) = fit(&run, source(data, Split::Train)?, watch.options(dir))?;
    if outcome == Outcome::Interrupted {
        println!("time is over; the same command goes on");
        return Ok(());
    }

    let fresh = ImagesCpc::new(run.method.clone(), run.train.seed, &Device::Cpu)?;
    let mut method = ImagesCpc::new(run.method.clone(), run.train.seed, &Device::Cpu)?;
    method.load_backbone(&trained.backbone().into_iter().collect(), Path::new(dir))?;
    probes("random", &fresh, data, &run.eval)?;
    probes("CPC", &method, data, &run.eval)?;
    if let Some(path) = picture {
        let units = (0..run.method.encoder.width().min(16)).collect();
        let search = UnitSearch { units, count: 10, one_per_image: true };
        let images = source(data, Split::Test)?;
        let found = top_patches(&method.model().encoder, images, &run.eval, &search, &Device::Cpu, 2)?;
        write_grid(Path::new(&path), &found, 2)?;
        println!("{path}");
    }
    Ok(())
}
