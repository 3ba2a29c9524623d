//! Trains SimCLR on a folder of images: `cargo run --features data --example train_folder -- PHOTOS RUN`.

use contrastive_core::data::ImageFolder;
use contrastive_core::experiment::{RunOptions, fit};
use contrastive_core::train::{Notes, Observer, StepRecord};
use contrastive_simclr::recipe;

/// Prints the loss.
struct Print;

impl Observer for Print {
    fn on_step(&mut self, record: &StepRecord<'_>, _notes: &mut Notes) -> contrastive_core::Result<()> {
        if record.logged {
            println!("step {} loss {:.3}", record.progress.step, record.loss);
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(photos), Some(dir)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: train_folder PHOTOS RUN");
    };
    let mut run = recipe::preset("cifar10-repository")?;
    run.train.batch_size = 128;
    let mut print = Print;
    let options = RunOptions { observers: vec![&mut print], ..RunOptions::new(&dir) };
    let (_, outcome) = fit(&run, ImageFolder::open(photos)?, options)?;
    println!("{outcome:?}: {dir}/encoder.safetensors");
    Ok(())
}
