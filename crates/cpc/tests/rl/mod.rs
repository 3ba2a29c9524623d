//! The actor-critic on a task whose colour tells the right action.

mod acting;
mod gym;
mod runs;

use anyhow::Result;
use contrastive_core::rng::{Key, Purpose};
use contrastive_cpc::rl::scenes;
use contrastive_cpc::rl::{Environment, RlRun, Shape, Step, VecEnvironment, recipe};

/// Shows one of three colours, which follow each other in a circle. The action of the colour's number is paid. Episodes
/// begin with any colour and have 5 to 10 steps.
pub struct Colours {
    pub pay: f32,
    pub shape: Shape,
    colour: usize,
    left: u64,
}

pub const SHAPE: Shape = Shape { height: 20, width: 20 };

impl Colours {
    pub fn new(pay: f32) -> Self {
        Self { pay, shape: SHAPE, colour: 0, left: 0 }
    }
}

impl Environment for Colours {
    fn name(&self) -> &str {
        "colours"
    }

    fn shape(&self) -> Shape {
        self.shape
    }

    fn actions(&self) -> usize {
        3
    }

    fn frames_per_step(&self) -> u32 {
        4
    }

    fn reset(&mut self, seed: u64, episode: u64) -> scenes::Result<()> {
        let mut stream = Key::new(seed, Purpose::Data).epoch(episode).stream();
        (self.colour, self.left) = (stream.below(3) as usize, 5 + stream.below(6));
        Ok(())
    }

    fn step(&mut self, action: usize) -> scenes::Result<Step> {
        if self.left == 0 {
            return Err(scenes::Error::NotRunning { environment: "colours".into() });
        }
        if action >= 3 {
            return Err(scenes::Error::Action { environment: "colours".into(), action, actions: 3 });
        }
        let reward = if action == self.colour { self.pay } else { 0.0 };
        (self.colour, self.left) = ((self.colour + 1) % 3, self.left - 1);
        Ok(Step { reward, done: self.left == 0, truncated: self.left == 0 })
    }

    fn observe(&mut self, pixels: &mut [u8]) -> scenes::Result<()> {
        for pixel in pixels.chunks_mut(3) {
            pixel.fill(30);
            pixel[self.colour] = 220;
        }
        Ok(())
    }
}

pub fn colours(count: usize, pay: f32) -> Result<VecEnvironment> {
    Ok(colours_from(0, count, pay)?)
}

pub fn colours_from(first_seed: u64, count: usize, pay: f32) -> contrastive_core::Result<VecEnvironment> {
    let all = (0..count).map(|_| Box::new(Colours::new(pay)) as Box<dyn Environment>).collect();
    VecEnvironment::new(all, first_seed)
}

/// Small networks for it.
pub fn tiny() -> Result<RlRun> {
    let mut run = recipe::preset("smoke")?.sized(8, 12);
    (run.method.codes, run.method.contexts) = (32, 32);
    run.method.updates_per_epoch = 5;
    run.method.cpc.objective.steps = 3;
    run.train.epochs = 2;
    run.train.checkpoint_every_epochs = 1;
    (run.environment.height, run.environment.width) = (SHAPE.height, SHAPE.width);
    run.environment.name = "colours".to_string();
    Ok(run)
}
