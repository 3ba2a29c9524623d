//! `seek_avoid`: take the good objects, leave the bad ones.
//!
//! Modelled on DeepMind Lab's `seekavoid_arena_01`: apples pay 1, lemons cost 1, an episode lasts 20 s at 15 steps a
//! second, and when all apples are taken the arena fills anew. What to do is in view at any time; memory helps only to
//! know what lies behind one's back.
//!
//! Departures: the arena is a rectangle with a few pillars, objects lie on cells drawn at random and not at places of a
//! fixed map, and the agent stays where it is when the arena fills.

use super::{Game, Rules, Setting, check_rewards, check_side, no_floor, pillared_room};
use crate::action::Controls;
use crate::env::{Result, Step, config};
use crate::look::{self, BRIGHT, Ceiling, Pattern, Shape, Style};
use crate::map::Point;
use crate::render::View;
use crate::rng::Stream;
use crate::world::{Object, REACH, World};

/// Settings of [`SeekAvoid`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct SeekAvoidConfig {
    /// The picture.
    pub view: View,
    /// How actions become motion.
    pub controls: Controls,
    /// Steps after which an episode ends.
    pub horizon: u32,
    /// Cells of the arena from left to right.
    pub width: usize,
    /// Cells of the arena from top to bottom.
    pub height: usize,
    /// Pillars, as far as there is room.
    pub pillars: usize,
    /// Good objects in a full arena.
    pub good: usize,
    /// Bad objects in a full arena.
    pub bad: usize,
    /// What a good object pays.
    pub good_reward: f32,
    /// What a bad object pays.
    pub bad_reward: f32,
}

impl Default for SeekAvoidConfig {
    fn default() -> Self {
        Self {
            view: View::default(),
            controls: Controls::default(),
            horizon: 300,
            width: 9,
            height: 9,
            pillars: 3,
            good: 8,
            bad: 6,
            good_reward: 1.0,
            bad_reward: -1.0,
        }
    }
}

impl SeekAvoidConfig {
    /// A small arena with more objects for its size, and episodes of 10 s.
    pub fn small() -> Self {
        Self { horizon: 150, width: 5, height: 5, pillars: 0, good: 6, bad: 3, ..Self::default() }
    }
}

/// Tag of good objects.
pub const GOOD: usize = 0;
/// Tag of bad objects.
pub const BAD: usize = 1;

/// The rules of `seek_avoid`.
#[derive(Debug, Clone)]
pub struct SeekAvoidRules {
    config: SeekAvoidConfig,
}

/// The environment `seek_avoid`.
pub type SeekAvoid = Game<SeekAvoidRules>;

impl SeekAvoid {
    /// The environment of these settings.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn with(config: SeekAvoidConfig) -> Result<Self> {
        Game::new(SeekAvoidRules { config })
    }
}

impl Rules for SeekAvoidRules {
    const NAME: &'static str = "seek_avoid";

    fn setting(&self) -> Setting {
        Setting { view: self.config.view, controls: self.config.controls, horizon: self.config.horizon }
    }

    fn check(&self) -> Result<()> {
        check_side("width", self.config.width)?;
        check_side("height", self.config.height)?;
        let most = self.config.width * self.config.height / 2;
        if self.config.good == 0 || self.config.good.saturating_add(self.config.bad) > most {
            let reason = format!("{} good and {} bad objects", self.config.good, self.config.bad);
            return Err(config(
                "good",
                format!("{reason}; expected 1 good one or more and {most} in all at most"),
            ));
        }
        check_rewards(&[("good_reward", self.config.good_reward), ("bad_reward", self.config.bad_reward)])
    }

    fn begin(&mut self, rng: &mut Stream) -> Result<World> {
        let mut map = pillared_room(self.config.width, self.config.height, self.config.pillars, rng);
        let styles = look::random_styles(4, 4, rng);
        look::decorate(&mut map, 4, 4, 4, 0.1, rng);
        let mut world = World::new(map);
        world.styles = styles;
        world.floor = Style::new(Pattern::Stone, [88, 132, 70], [124, 160, 92]);
        world.ceiling = Ceiling::Sky([64, 122, 206], [210, 228, 240]);
        let spot = world.free_spot(&[], 0.0, rng).ok_or_else(no_floor)?;
        world.place_agent(spot, rng);
        self.fill(&mut world, rng);
        Ok(world)
    }

    fn frame(&mut self, world: &mut World, rng: &mut Stream, step: &mut Step) {
        let position = world.agent.position;
        let config = &self.config;
        world.objects.retain(|object| {
            let taken = position.within(object.position, REACH);
            if taken {
                step.reward += if object.tag == GOOD { config.good_reward } else { config.bad_reward };
            }
            !taken
        });
        if !world.objects.iter().any(|object| object.tag == GOOD) {
            self.fill(world, rng);
        }
    }
}

impl SeekAvoidRules {
    fn fill(&self, world: &mut World, rng: &mut Stream) {
        world.objects.clear();
        let mut floor = world.map.floor();
        rng.shuffle(&mut floor);
        // One cell is the agent's: what lies there would be taken unseen.
        let agent: Point = world.agent.position;
        floor.retain(|spot| !spot.centre().within(agent, 1.2));
        for (i, spot) in floor.into_iter().take(self.config.good + self.config.bad).enumerate() {
            let object = if i < self.config.good {
                Object::new(spot.centre(), Shape::Apple, [214, 30, 34], [60, 150, 50], GOOD)
            } else {
                Object::new(spot.centre(), Shape::Lemon, BRIGHT[3], [190, 170, 30], BAD)
            };
            world.objects.push(Object { lift: 0.28, ..object });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Environment;

    #[test]
    fn rewards_are_those_of_what_was_taken_and_the_arena_fills_anew() {
        let mut env = SeekAvoid::with(SeekAvoidConfig::default()).unwrap();
        env.reset(4, 0).unwrap();
        assert_eq!(env.world.objects.len(), 14);
        let bad = env.world.objects.iter().find(|o| o.tag == BAD).unwrap().position;
        env.world.agent.position = bad;
        assert_eq!(env.step(8).unwrap().reward, -1.0);
        let mut total = 0.0;
        for _ in 0..8 {
            let good = env.world.objects.iter().find(|o| o.tag == GOOD).unwrap().position;
            env.world.agent.position = good;
            total += env.step(8).unwrap().reward;
        }
        assert_eq!(total, 8.0);
        assert_eq!(env.world.objects.len(), 14);
        let positions: Vec<_> = env.world.objects.iter().map(|o| o.position.spot()).collect();
        assert!((0..14).all(|i| !positions[..i].contains(&positions[i])));
    }
}
