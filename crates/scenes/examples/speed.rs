//! Prints how many frames per second each task makes on one core: steps with an observation each, and steps alone.
//!
//! `cargo run --release --example speed -- [steps] [height] [width]`

use std::time::Instant;

use contrastive_scenes::{NAMES, View, by_name_with_view};

fn main() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let steps = numbers.first().copied().unwrap_or(20_000);
    let height = numbers.get(1).copied().unwrap_or(84);
    let view = View { height, width: numbers.get(2).copied().unwrap_or(height), ..View::default() };
    for name in NAMES {
        let mut rates = Vec::new();
        for seen in [true, false] {
            let mut env = by_name_with_view(name, view)?;
            let mut pixels = vec![0; env.shape().bytes()];
            let mut episode = 0;
            env.reset(0, episode)?;
            let begin = Instant::now();
            for i in 0..steps {
                // A walk that gets about without a generator's cost in the measurement.
                if env.step([0, 6, 0, 0, 7, 0, 4, 0, 5][i / 3 % 9])?.done {
                    episode += 1;
                    env.reset(0, episode)?;
                }
                if seen {
                    env.observe(&mut pixels)?;
                }
            }
            rates.push(steps as f64 / begin.elapsed().as_secs_f64());
        }
        println!(
            "{name:14} {}×{}: {:7.0} observed steps/s, {:8.0} steps/s unseen",
            view.height, view.width, rates[0], rates[1]
        );
    }
    Ok(())
}
