//! `watermaze`: find a platform that cannot be seen, then find it again and again (Morris's water maze).
//!
//! Modelled on DeepMind Lab's `rooms_watermaze`. A round arena has a picture on the wall in each of eight directions,
//! always the same; somewhere on the floor is a platform that no pixel shows. Whoever steps on it is held there for a
//! few steps, sees it and may look about, is paid in each of them, and is then put at a random place. The platform
//! stays where it is for the episode, so the first find is a search and every later one a matter of memory.
//!
//! As in the level: the platform is drawn anew for each episode, the arena never changes, a find pays 1 five times, an
//! episode lasts 120 s at 15 steps a second. Departures: the arena is built of cells, the landmarks are pictures on its
//! wall, the platform lights up and does not rise, and the agent starts anywhere that is not near the platform, where
//! the level has a set of places at the rim.

use super::{Game, Rules, Setting, check_length, check_rewards, check_side, no_floor};
use crate::action::{Action, Controls};
use crate::env::{Result, Step, config};
use crate::look::{BRIGHT, Ceiling, Pattern, Style, WALL_COLOURS};
use crate::map::{Cell, Map, Point, Spot};
use crate::render::View;
use crate::rng::Stream;
use crate::world::{Patch, World};

/// Settings of [`Watermaze`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct WatermazeConfig {
    /// The picture.
    pub view: View,
    /// How actions become motion.
    pub controls: Controls,
    /// Steps after which an episode ends.
    pub horizon: u32,
    /// Diameter of the arena in cells.
    pub diameter: usize,
    /// Radius of the platform in cells.
    pub platform: f64,
    /// Distance that a start keeps from the platform, where the arena has room.
    pub apart: f64,
    /// What each reward on the platform is.
    pub reward: f32,
    /// Rewards of one find; the agent is held on the platform for as many steps.
    pub rewards: u32,
}

impl Default for WatermazeConfig {
    fn default() -> Self {
        Self {
            view: View::default(),
            controls: Controls::default(),
            horizon: 1800,
            diameter: 11,
            platform: 0.7,
            apart: 3.0,
            reward: 1.0,
            rewards: 5,
        }
    }
}

impl WatermazeConfig {
    /// A small arena with a larger platform, and episodes of 30 s.
    pub fn small() -> Self {
        Self { horizon: 450, diameter: 5, platform: 0.8, apart: 1.5, ..Self::default() }
    }
}

/// The rules of `watermaze`.
#[derive(Debug, Clone)]
pub struct WatermazeRules {
    config: WatermazeConfig,
    platform: Point,
    /// Rewards still to come while the agent is held.
    left: u32,
    held: bool,
    finds: u32,
}

/// The environment `watermaze`.
pub type Watermaze = Game<WatermazeRules>;

impl Watermaze {
    /// The environment of these settings.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn with(config: WatermazeConfig) -> Result<Self> {
        Game::new(WatermazeRules { config, platform: Point::default(), left: 0, held: false, finds: 0 })
    }
}

impl WatermazeRules {
    /// Where the platform is.
    pub fn platform(&self) -> Point {
        self.platform
    }

    /// How often it has been found in this episode.
    pub fn finds(&self) -> u32 {
        self.finds
    }
}

impl Rules for WatermazeRules {
    const NAME: &'static str = "watermaze";

    fn setting(&self) -> Setting {
        Setting { view: self.config.view, controls: self.config.controls, horizon: self.config.horizon }
    }

    fn check(&self) -> Result<()> {
        check_side("diameter", self.config.diameter)?;
        check_length("apart", self.config.apart)?;
        if !(self.config.platform > 0.0 && self.config.platform <= 3.0) {
            return Err(config("platform", format!("{} is not in (0, 3] cells", self.config.platform)));
        }
        if self.config.rewards == 0 {
            return Err(config("rewards", "a find needs a reward"));
        }
        check_rewards(&[("reward", self.config.reward)])
    }

    fn begin(&mut self, rng: &mut Stream) -> Result<World> {
        let mut world = World::new(arena(self.config.diameter));
        world.styles = styles();
        // High enough to tell the pictures apart from across the room.
        world.wall_height = 2.0;
        world.floor = Style::new(Pattern::Stone, [70, 128, 150], [104, 164, 180]);
        world.ceiling = Ceiling::Sky([58, 104, 190], [206, 222, 236]);
        // Not on the outermost ring, where following the wall would find it.
        let middle = Point::new(world.map.width() as f64 / 2.0, world.map.height() as f64 / 2.0);
        let inner = self.config.diameter as f64 / 2.0 - 1.0;
        let spots: Vec<Spot> =
            world.map.floor().into_iter().filter(|s| s.centre().within(middle, inner)).collect();
        self.platform = rng.pick(&spots).ok_or_else(no_floor)?.centre();
        (self.left, self.held, self.finds) = (0, false, 0);
        self.start(&mut world, rng);
        Ok(world)
    }

    fn before(&mut self, _: &mut World, _: Action, _: &mut Stream, step: &mut Step) {
        if self.left > 0 {
            self.left -= 1;
            step.reward += self.config.reward;
        }
    }

    fn frame(&mut self, world: &mut World, _: &mut Stream, step: &mut Step) {
        if !self.held && world.agent.position.within(self.platform, self.config.platform) {
            self.held = true;
            self.left = self.config.rewards - 1;
            self.finds += 1;
            step.reward += self.config.reward;
            world.agent.rooted = true;
            world.patch =
                Some(Patch { centre: self.platform, radius: self.config.platform, colour: [255, 236, 110] });
        }
    }

    fn after(&mut self, world: &mut World, rng: &mut Stream) {
        if self.held && self.left == 0 {
            self.held = false;
            self.start(world, rng);
        }
    }
}

impl WatermazeRules {
    fn start(&self, world: &mut World, rng: &mut Stream) {
        world.patch = None;
        world.agent.rooted = false;
        let apart = self.config.apart.max(self.config.platform + 0.5);
        if let Some(spot) = world.free_spot(&[self.platform], apart, rng) {
            world.place_agent(spot, rng);
        }
    }
}

/// The round room: a tiling for each of eight sectors and a picture in the middle of each.
fn arena(diameter: usize) -> Map {
    let mut map = Map::round(diameter);
    let middle = Point::new(map.width() as f64 / 2.0, map.height() as f64 / 2.0);
    // (squared distance from the sector's axis, cell) of the best place for a picture.
    let mut best = [(f64::INFINITY, Spot::new(0, 0)); 8];
    for spot in map.spots() {
        if let Cell::Wall(_) = map.get(spot) {
            let (x, y) = (spot.centre().x - middle.x, spot.centre().y - middle.y);
            let sector = sector(x, y);
            map.set(spot, Cell::Wall(sector as u8));
            let seen = spot.neighbours().any(|s| map.get(s) == Cell::Floor);
            let off = off_axis(sector, x, y);
            if seen && off < best[sector].0 {
                best[sector] = (off, spot);
            }
        }
    }
    for (sector, (_, spot)) in best.into_iter().enumerate() {
        map.set(spot, Cell::Wall(8 + sector as u8));
    }
    map
}

/// The eighth of the circle, from 0 about +x towards +y.
fn sector(x: f64, y: f64) -> usize {
    // tan 22.5°
    let narrow = std::f64::consts::SQRT_2 - 1.0;
    let (a, b) = (x.abs(), y.abs());
    let quadrant = |east: usize, diagonal: usize, south: usize| {
        if b < narrow * a {
            east
        } else if a < narrow * b {
            south
        } else {
            diagonal
        }
    };
    match (x >= 0.0, y >= 0.0) {
        (true, true) => quadrant(0, 1, 2),
        (false, true) => quadrant(4, 3, 2),
        (false, false) => quadrant(4, 5, 6),
        (true, false) => quadrant(0, 7, 6),
    }
}

/// Squared distance from the middle line of a sector, up to a factor.
fn off_axis(sector: usize, x: f64, y: f64) -> f64 {
    let off = match sector % 4 {
        0 => y,
        1 => x - y,
        2 => x,
        _ => x + y,
    };
    off * off
}

fn styles() -> Vec<Style> {
    let tilings = [
        Pattern::Brick,
        Pattern::Planks,
        Pattern::Stone,
        Pattern::Panel,
        Pattern::Brick,
        Pattern::Stripes,
        Pattern::Stone,
        Pattern::Dots,
    ];
    let pictures = [
        (Pattern::Disc, BRIGHT[0]),
        (Pattern::Bars, BRIGHT[3]),
        (Pattern::Cross, BRIGHT[2]),
        (Pattern::Diamond, BRIGHT[1]),
        (Pattern::Triangle, BRIGHT[5]),
        (Pattern::Rings, BRIGHT[0]),
        (Pattern::Saltire, BRIGHT[3]),
        (Pattern::Disc, BRIGHT[2]),
    ];
    let mut styles: Vec<Style> = tilings
        .iter()
        .zip(WALL_COLOURS)
        .map(|(&pattern, (base, accent))| Style::new(pattern, base, accent))
        .collect();
    styles.extend(pictures.iter().enumerate().map(|(i, &(pattern, colour))| {
        Style::new(pattern, if i % 2 == 0 { [236, 232, 220] } else { [34, 36, 48] }, colour)
    }));
    styles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Environment;

    fn walk(env: &mut Watermaze, actions: &[usize]) -> (Vec<u8>, f32) {
        let mut frames = Vec::new();
        let mut pixels = vec![0; env.shape().bytes()];
        let mut reward = 0.0;
        for &action in actions {
            env.observe(&mut pixels).unwrap();
            frames.extend_from_slice(&pixels);
            reward += env.step(action).unwrap().reward;
        }
        env.observe(&mut pixels).unwrap();
        frames.extend_from_slice(&pixels);
        (frames, reward)
    }

    #[test]
    fn no_pixel_shows_the_platform_before_it_is_found() {
        for seed in 0..8 {
            let actions: Vec<usize> =
                (0..60).map(|i| [0, 6, 0, 4, 5, 0, 7][(i + seed as usize) % 7]).collect();
            let mut here = Watermaze::with(WatermazeConfig::default()).unwrap();
            here.reset(seed, 0).unwrap();
            let start = here.world.agent;
            let far = here.world.free_spot(&[start.position], 7.0, &mut here.rng).unwrap();
            let mut frames = Vec::new();
            // Out of the world, across the room, and straight ahead but out of the walk's reach.
            for platform in [Point::new(-50.0, -50.0), far.centre()] {
                here.reset(seed, 0).unwrap();
                here.rules.platform = platform;
                let (seen, reward) = walk(&mut here, &actions);
                if reward == 0.0 {
                    frames.push(seen);
                }
            }
            assert!(frames.windows(2).all(|w| w[0] == w[1]), "seed {seed}");
            assert!(!frames.is_empty());
        }
    }

    #[test]
    fn a_find_holds_pays_shows_and_then_moves_the_agent_but_not_the_platform() {
        let mut env = Watermaze::with(WatermazeConfig::default()).unwrap();
        env.reset(1, 0).unwrap();
        env.rules.platform = env.world.agent.position;
        let found = env.world.agent.position;
        let mut rewards = Vec::new();
        for i in 0..5 {
            rewards.push(env.step(Action::Forward.index()).unwrap().reward);
            if i < 4 {
                assert!(env.world.patch.is_some() && env.world.agent.rooted);
            }
        }
        assert_eq!(rewards, [1.0; 5]);
        assert!(env.world.patch.is_none() && !env.world.agent.rooted);
        assert!(!env.world.agent.position.within(found, 2.9));
        assert!(env.rules.platform.within(found, 1e-9));
        assert_eq!((env.step(0).unwrap().reward, env.rules.finds()), (0.0, 1));
    }

    #[test]
    fn each_sector_has_its_picture() {
        for diameter in [7, 11, 12, 17] {
            let map = arena(diameter);
            for style in 8..16 {
                let here: Vec<Spot> = map.spots().filter(|&s| map.get(s) == Cell::Wall(style)).collect();
                assert_eq!(here.len(), 1, "picture {style} of {diameter}");
            }
        }
    }
}
