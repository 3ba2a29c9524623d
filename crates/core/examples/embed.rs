//! `embed WEIGHTS IMAGE` prints the features of an image, one number a line. It needs nothing beside itself: docs/embed.md
//! says how it becomes one static file.

use std::path::Path;

use candle_core::{Device, Tensor};
use contrastive_core::data::Transform;
use contrastive_core::data::decode::decode;
use contrastive_core::nn::{Mode, Module};
use contrastive_core::rng::{Key, Purpose};
use contrastive_core::weights::{Hints, Pretrained};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, image] = arguments.as_slice() else { anyhow::bail!("usage: embed WEIGHTS IMAGE") };
    let model = Pretrained::open(Path::new(weights), Hints::default())?;
    let (backbone, _) = model.build(&Device::Cpu)?;
    let image = decode(&std::fs::read(image)?, Path::new(image))?.to_rgb();
    // Evaluation draws nothing: any key will do.
    let mut views = model.preprocessing.apply(&image, Key::new(0, Purpose::Eval))?;
    let view = views.remove(0);
    let x = Tensor::from_vec(view.data, [&[1], view.shape.as_slice()].concat(), &Device::Cpu)?;
    for number in backbone.forward(&x, &Mode::eval())?.flatten_all()?.to_vec1::<f32>()? {
        println!("{number}");
    }
    Ok(())
}
