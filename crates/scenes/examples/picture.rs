//! Writes a sheet of frames as a PNG or PPM file: one row per task, one column per few steps of a random walk.
//!
//! `cargo run --release --example picture -- FILE [task or all] [seed] [side] [columns]`

use anyhow::Context;
use contrastive_scenes::rng::{Purpose, Stream};
use contrastive_scenes::{NAMES, View, by_name_with_view};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().context("expected the name of a file to write")?;
    let task = arguments.get(1).map_or("all", String::as_str);
    let number = |i: usize, default: usize| arguments.get(i).map_or(Ok(default), |a| a.parse());
    let (seed, side, columns) = (number(2, 0)? as u64, number(3, 168)?, number(4, 5)?);
    let names: Vec<&str> = NAMES.into_iter().filter(|name| task == "all" || task == *name).collect();
    anyhow::ensure!(!names.is_empty(), "unknown task `{task}`; there are {}", NAMES.join(", "));

    let (width, height) = (columns * (side + 4), names.len() * (side + 4));
    let mut sheet = image::RgbImage::new(width as u32, height as u32);
    let view = View { height: side, width: side, ..View::default() };
    for (row, name) in names.iter().enumerate() {
        let mut env = by_name_with_view(name, view)?;
        env.reset(seed, 0)?;
        let mut rng = Stream::new(seed, 0, Purpose::Play);
        let mut pixels = vec![0; env.shape().bytes()];
        for column in 0..columns {
            env.observe(&mut pixels)?;
            for (i, colour) in pixels.chunks_exact(3).enumerate() {
                let at = ((column * (side + 4) + i % side) as u32, (row * (side + 4) + i / side) as u32);
                sheet.put_pixel(at.0, at.1, image::Rgb([colour[0], colour[1], colour[2]]));
            }
            for _ in 0..6 {
                if env.step([0, 4, 6, 5, 4, 1][rng.below(6)])?.done {
                    env.reset(seed, 1)?;
                }
            }
        }
    }
    if path.ends_with(".ppm") {
        let mut bytes = format!("P6\n{width} {height}\n255\n").into_bytes();
        bytes.extend_from_slice(sheet.as_raw());
        std::fs::write(path, bytes).with_context(|| path.clone())?;
    } else {
        sheet.save(path).with_context(|| path.clone())?;
    }
    Ok(())
}
