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

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::Device;
use contrastive_core::augment::{EvalTransform, Image};
use contrastive_core::data::{Source, Split, embedded, open};
use contrastive_core::eval::{Protocol, metric};
use contrastive_core::experiment::{RunOptions, features, fit};
use contrastive_core::train::config::layered;
use contrastive_core::train::{EpochRecord, Method, Notes, Observer, Outcome, StepRecord};
use contrastive_cpc::images::units::{UnitSearch, top_patches, write_grid};
use contrastive_cpc::images::{ImagesCpc, recipe};

type Images = Arc<dyn Source<Sample = Image>>;

/// Prints epochs and ends the run when its time is over.
struct Watch {
    began: Instant,
    minutes: f64,
    stop: Arc<AtomicBool>,
}

impl Observer for Watch {
    fn on_step(&mut self, _record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        if self.began.elapsed().as_secs_f64() > 60.0 * self.minutes {
            self.stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_epoch(
        &mut self,
        record: &EpochRecord<'_>,
        _: &dyn Method,
        _: &mut Notes,
    ) -> contrastive_core::Result<()> {
        let (epoch, of) = (record.progress.epoch + 1, record.progress.total_epochs);
        print!("epoch {epoch}/{of} loss {:.3} accuracy", record.loss);
        for (_, value) in record.terms.iter().filter(|(name, _)| name.ends_with("/accuracy")) {
            print!(" {value:.3}");
        }
        println!(" ({:.1} s)", record.seconds);
        Ok(())
    }

    fn on_warning(&mut self, step: u64, text: &str) {
        println!("step {step}: {text}");
    }
}

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

/// The value of an argument `name=value`, which is taken out.
fn take(arguments: &mut Vec<String>, name: &str) -> Option<String> {
    let at = arguments.iter().position(|a| a.split_once('=').is_some_and(|(key, _)| key == name))?;
    arguments.remove(at).split_once('=').map(|(_, value)| value.to_string())
}

fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let minutes = take(&mut arguments, "minutes").map_or(Ok(f64::INFINITY), |text| text.parse())?;
    let picture = take(&mut arguments, "units");
    let [data, dir, rest @ ..] = arguments.as_slice() else {
        bail!("usage: images DATA RUN [PRESET] [minutes=M] [units=FILE.png] [key=value ...]");
    };
    let (preset, set) = match rest.split_first() {
        Some((first, rest)) if !first.contains('=') => (first.as_str(), rest),
        _ => ("images-smoke", rest),
    };
    let run = layered(&recipe::preset(preset)?, None, set)?;

    let stop = Arc::<AtomicBool>::default();
    let mut watch = Watch { began: Instant::now(), minutes, stop: stop.clone() };
    let options =
        RunOptions { stop, resume: true, observers: vec![&mut watch], ..RunOptions::new(PathBuf::from(dir)) };
    let (trained, outcome) = fit(&run, source(data, Split::Train)?, options)?;
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
