//! The tasks, and [`Game`], which runs any of them: a task's [`Rules`] say what the world is and what is rewarded, the
//! game moves the agent, counts time and draws.

pub mod explore_goals;
pub mod keys_doors;
pub mod seek_avoid;
pub mod targets;
pub mod watermaze;

use crate::action::{Action, Controls};
use crate::env::{Environment, Error, Result, Shape, Step, config};
use crate::map::{Cell, Map, Spot};
use crate::render::{Renderer, View};
use crate::rng::{Purpose, Stream};
use crate::world::World;

/// What a game needs to know of a task beside its rules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// The picture.
    pub view: View,
    /// How actions become motion.
    pub controls: Controls,
    /// Steps after which an episode ends.
    pub horizon: u32,
}

/// A task. In each step of the agent [`Rules::before`] is called, then for each frame the agent moves and
/// [`Rules::frame`] is called, then [`Rules::after`]. Rewards are added to the step, and its `done` ends the episode.
pub trait Rules: Send {
    /// The environment's name.
    const NAME: &'static str;

    /// Picture, motion and time.
    fn setting(&self) -> Setting;

    /// Refuses settings that leave nothing to play.
    ///
    /// # Errors
    /// Names the key at fault.
    fn check(&self) -> Result<()>;

    /// Builds the world of an episode.
    ///
    /// # Errors
    /// If the settings leave no world to build.
    fn begin(&mut self, rng: &mut Stream) -> Result<World>;

    /// Answers the action before the agent moves.
    fn before(&mut self, _world: &mut World, _action: Action, _rng: &mut Stream, _step: &mut Step) {}

    /// Looks at the world after the agent has moved by one frame.
    fn frame(&mut self, world: &mut World, rng: &mut Stream, step: &mut Step);

    /// Closes the step.
    fn after(&mut self, _world: &mut World, _rng: &mut Stream) {}
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Running,
    Over,
}

/// An environment: a task's rules with a world to play in.
#[derive(Debug)]
pub struct Game<R> {
    rules: R,
    setting: Setting,
    world: World,
    renderer: Renderer,
    rng: Stream,
    steps: u32,
    phase: Phase,
}

impl<R: Rules> Game<R> {
    /// A game of these rules; it waits for a reset.
    ///
    /// # Errors
    /// If a setting is out of range; the error names its key.
    pub fn new(rules: R) -> Result<Self> {
        let setting = rules.setting();
        setting.controls.check()?;
        if setting.horizon == 0 {
            return Err(config("horizon", "an episode needs a step"));
        }
        rules.check()?;
        Ok(Self {
            rules,
            setting,
            world: World::new(Map::room(1, 1)),
            renderer: Renderer::new(setting.view)?,
            rng: Stream::new(0, 0, Purpose::Play),
            steps: 0,
            phase: Phase::Fresh,
        })
    }

    /// The world as it stands, for whoever may know it (an oracle, a map on a screen).
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The rules with the state of the episode.
    pub fn rules(&self) -> &R {
        &self.rules
    }

    /// Picture, motion and time.
    pub fn setting(&self) -> &Setting {
        &self.setting
    }

    fn not_running(&self) -> Error {
        Error::NotRunning { environment: R::NAME.to_owned() }
    }
}

impl<R: Rules> Environment for Game<R> {
    fn name(&self) -> &str {
        R::NAME
    }

    fn shape(&self) -> Shape {
        self.setting.view.shape()
    }

    fn actions(&self) -> usize {
        Action::ALL.len()
    }

    fn frames_per_step(&self) -> u32 {
        self.setting.controls.repeat
    }

    fn reset(&mut self, seed: u64, episode: u64) -> Result<()> {
        self.phase = Phase::Fresh;
        self.world = self.rules.begin(&mut Stream::new(seed, episode, Purpose::Layout))?;
        self.rng = Stream::new(seed, episode, Purpose::Play);
        self.steps = 0;
        self.phase = Phase::Running;
        Ok(())
    }

    fn step(&mut self, action: usize) -> Result<Step> {
        if self.phase != Phase::Running {
            return Err(self.not_running());
        }
        let Some(act) = Action::from_index(action) else {
            let actions = Action::ALL.len();
            return Err(Error::Action { environment: R::NAME.to_owned(), action, actions });
        };
        let controls = self.setting.controls;
        let mut step = Step::default();
        self.rules.before(&mut self.world, act, &mut self.rng, &mut step);
        for frame in 0..controls.repeat {
            if step.done {
                break;
            }
            let agent = &mut self.world.agent;
            agent.heading = agent.heading.turned(act.turn() * controls.turn_of_frame(frame));
            self.world.walk(controls.speed * act.ahead(), controls.speed * act.aside());
            self.rules.frame(&mut self.world, &mut self.rng, &mut step);
        }
        self.rules.after(&mut self.world, &mut self.rng);
        self.steps += 1;
        if !step.done && self.steps >= self.setting.horizon {
            step.done = true;
            step.truncated = true;
        }
        if step.done {
            self.phase = Phase::Over;
        }
        Ok(step)
    }

    fn observe(&mut self, pixels: &mut [u8]) -> Result<()> {
        if self.phase == Phase::Fresh {
            return Err(self.not_running());
        }
        let expected = self.shape().bytes();
        if pixels.len() != expected {
            return Err(Error::Buffer { environment: R::NAME.to_owned(), expected, got: pixels.len() });
        }
        self.renderer.draw(&self.world, pixels);
        Ok(())
    }
}

/// Checks a side of an arena.
fn check_side(key: &'static str, side: usize) -> Result<()> {
    if (5..=127).contains(&side) { Ok(()) } else { Err(config(key, format!("{side} is not in 5 to 127"))) }
}

/// Checks a number that must be finite and not negative.
fn check_length(key: &'static str, length: f64) -> Result<()> {
    if (0.0..=1e6).contains(&length) {
        Ok(())
    } else {
        Err(config(key, format!("{length} is not a length of 0 or more")))
    }
}

/// Checks rewards.
fn check_rewards(rewards: &[(&'static str, f32)]) -> Result<()> {
    match rewards.iter().find(|(_, reward)| !reward.is_finite()) {
        Some((key, reward)) => Err(config(key, format!("{reward} is not a number"))),
        None => Ok(()),
    }
}

/// A room of `width × height` cells with up to `pillars` single blocks of wall, which never touch each other or the
/// outer wall, so that the floor stays in one piece.
fn pillared_room(width: usize, height: usize, pillars: usize, rng: &mut Stream) -> Map {
    let mut map = Map::room(width, height);
    let mut spots: Vec<Spot> = map
        .spots()
        .filter(|s| s.x % 2 == 1 && s.y % 2 == 1 && s.x > 2 && s.y > 2 && s.x < width - 1 && s.y < height - 1)
        .collect();
    rng.shuffle(&mut spots);
    for &spot in spots.iter().take(pillars) {
        map.set(spot, Cell::Wall(0));
    }
    map
}

/// No floor to stand on: only a map without any gives this.
fn no_floor() -> Error {
    config("map", "no floor cell is left to place something on")
}
