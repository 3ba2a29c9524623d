//! `targets`: turn to moving figures and shoot them. The control without memory.
//!
//! It stands in the place of DeepMind Lab's `lasertag_three_opponents_small`, the one level of the paper's five on
//! which the contrastive loss made no difference: three opponents in a small arena, a point for each hit, and all that
//! an action depends on is in view.
//!
//! Departures, which are many: the figures wander and neither shoot back nor hide, there are no gadgets, shields or
//! pick-ups, a hit figure comes back elsewhere at once, the arena is one room with pillars, and an episode lasts 60 s at
//! 15 steps a second, not 240.

use super::{Game, Rules, Setting, check_rewards, check_side, no_floor, pillared_room};
use crate::action::{Action, Controls};
use crate::angle::Angle;
use crate::env::{Result, Step, config};
use crate::look::{self, Ceiling, Pattern, Shape, Style};
use crate::map::Point;
use crate::render::View;
use crate::rng::Stream;
use crate::world::{Object, World, slide};

/// Settings of [`Targets`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct TargetsConfig {
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
    /// Figures, 1 to 16.
    pub targets: usize,
    /// Half of a figure's width in cells, as a shot and a wall see it.
    pub radius: f64,
    /// Cells per frame that a figure walks.
    pub pace: f64,
    /// Probability per frame that a figure turns without need.
    pub whim: f64,
    /// What a hit pays.
    pub hit_reward: f32,
    /// What a shot that hits nothing pays.
    pub miss_reward: f32,
}

impl Default for TargetsConfig {
    fn default() -> Self {
        Self {
            view: View::default(),
            controls: Controls::default(),
            horizon: 900,
            width: 9,
            height: 9,
            pillars: 3,
            targets: 3,
            radius: 0.35,
            pace: 0.02,
            whim: 0.01,
            hit_reward: 1.0,
            miss_reward: 0.0,
        }
    }
}

impl TargetsConfig {
    /// A small arena, and episodes of 20 s.
    pub fn small() -> Self {
        Self { horizon: 300, width: 5, height: 5, pillars: 0, ..Self::default() }
    }
}

/// The rules of `targets`.
#[derive(Debug, Clone)]
pub struct TargetsRules {
    config: TargetsConfig,
    /// Where each figure walks to, in the order of the world's objects.
    headings: Vec<Angle>,
}

/// The environment `targets`.
pub type Targets = Game<TargetsRules>;

impl Targets {
    /// The environment of these settings.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn with(config: TargetsConfig) -> Result<Self> {
        Game::new(TargetsRules { config, headings: Vec::new() })
    }
}

impl TargetsRules {
    /// The object that a shot would hit: the nearest one whose figure the line of sight crosses before a wall.
    pub fn aim(&self, world: &World) -> Option<usize> {
        let (sin, cos) = (world.agent.heading.sin(), world.agent.heading.cos());
        let wall = world.sight(world.agent.heading);
        let mut best = None;
        let mut nearest = wall;
        for (i, object) in world.objects.iter().enumerate() {
            let (x, y) =
                (object.position.x - world.agent.position.x, object.position.y - world.agent.position.y);
            let (ahead, aside) = (x * cos + y * sin, y * cos - x * sin);
            if ahead > 0.0 && aside.abs() <= self.config.radius && ahead < nearest {
                nearest = ahead;
                best = Some(i);
            }
        }
        best
    }

    fn turn(rng: &mut Stream) -> Angle {
        Angle::new(rng.below(360) as i32)
    }
}

impl Rules for TargetsRules {
    const NAME: &'static str = "targets";

    fn setting(&self) -> Setting {
        Setting { view: self.config.view, controls: self.config.controls, horizon: self.config.horizon }
    }

    fn check(&self) -> Result<()> {
        check_side("width", self.config.width)?;
        check_side("height", self.config.height)?;
        if !(1..=16).contains(&self.config.targets) {
            return Err(config("targets", format!("{} is not in 1 to 16", self.config.targets)));
        }
        if !(self.config.radius > 0.0 && self.config.radius < 0.5) {
            return Err(config("radius", format!("{} is not in (0, 0.5) cells", self.config.radius)));
        }
        if !(0.0..=0.5).contains(&self.config.pace) {
            return Err(config("pace", format!("{} is not in [0, 0.5] cells per frame", self.config.pace)));
        }
        if !(0.0..=1.0).contains(&self.config.whim) {
            return Err(config("whim", format!("{} is not in [0, 1]", self.config.whim)));
        }
        check_rewards(&[("hit_reward", self.config.hit_reward), ("miss_reward", self.config.miss_reward)])
    }

    fn begin(&mut self, rng: &mut Stream) -> Result<World> {
        let mut map = pillared_room(self.config.width, self.config.height, self.config.pillars, rng);
        let styles = look::random_styles(3, 3, rng);
        look::decorate(&mut map, 3, 3, 4, 0.08, rng);
        let mut world = World::new(map);
        world.styles = styles;
        world.floor = Style::new(Pattern::Tiles, [118, 122, 134], [82, 86, 98]);
        world.ceiling = Ceiling::Roof(Style::new(Pattern::Tiles, [96, 102, 118], [140, 150, 170]));
        world.crosshair = true;
        let spot = world.free_spot(&[], 0.0, rng).ok_or_else(no_floor)?;
        world.place_agent(spot, rng);
        self.headings.clear();
        for i in 0..self.config.targets {
            let away = [world.agent.position];
            let spot = world.free_spot(&away, 2.5, rng).ok_or_else(no_floor)?;
            let (colour, detail) = [
                ([214, 60, 190], [250, 240, 120]),
                ([240, 130, 30], [250, 250, 250]),
                ([60, 200, 220], [250, 80, 60]),
            ][i % 3];
            let robot = Object::new(spot.centre(), Shape::Robot, colour, detail, i);
            world.objects.push(Object { size: 0.9, lift: 0.45, ..robot });
            self.headings.push(Self::turn(rng));
        }
        Ok(world)
    }

    fn before(&mut self, world: &mut World, action: Action, rng: &mut Stream, step: &mut Step) {
        if action != Action::Fire {
            return;
        }
        match self.aim(world) {
            Some(hit) => {
                step.reward += self.config.hit_reward;
                if let Some(spot) = world.free_spot(&[world.agent.position], 2.5, rng) {
                    world.objects[hit].position = spot.centre();
                }
            }
            None => step.reward += self.config.miss_reward,
        }
    }

    fn frame(&mut self, world: &mut World, rng: &mut Stream, _: &mut Step) {
        let World { map, objects, agent, .. } = world;
        for (object, heading) in objects.iter_mut().zip(&mut self.headings) {
            let by = Point::new(self.config.pace * heading.cos(), self.config.pace * heading.sin());
            let (to, blocked) = slide(map, object.position, by, self.config.radius);
            // Figures keep out of the agent's face, where they could not be seen whole.
            let crowding = to.within(agent.position, 1.0)
                && to.distance2(agent.position) < object.position.distance2(agent.position);
            if !crowding {
                object.position = to;
            }
            if blocked || crowding || rng.chance(self.config.whim) {
                *heading = Self::turn(rng);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Environment;
    use crate::map::{Cell, Spot};
    use crate::world::is_free;

    fn duel() -> Targets {
        let mut env = Targets::with(TargetsConfig { pillars: 0, ..TargetsConfig::default() }).unwrap();
        env.reset(0, 0).unwrap();
        env.world.agent.position = Point::new(2.5, 5.5);
        env.world.agent.heading = Angle::new(0);
        for object in &mut env.world.objects {
            object.position = Point::new(2.5, 1.5);
        }
        env.world.objects[1].position = Point::new(6.5, 5.7);
        env
    }

    #[test]
    fn a_shot_hits_what_is_ahead_and_not_what_a_wall_hides() {
        let mut env = duel();
        assert_eq!(env.rules.aim(&env.world), Some(1));
        let step = env.step(Action::Fire.index()).unwrap();
        assert_eq!(step.reward, 1.0);
        assert!(!env.world.objects[1].position.within(Point::new(2.5, 5.5), 2.0));

        let mut env = duel();
        env.world.map.set(Spot::new(4, 5), Cell::Wall(0));
        assert_eq!(env.rules.aim(&env.world), None);
        assert_eq!(env.step(Action::Fire.index()).unwrap().reward, 0.0);

        let mut env = duel();
        env.world.agent.heading = Angle::new(180);
        assert_eq!(env.rules.aim(&env.world), None);
        let mut env = duel();
        env.world.objects[1].position.y = 6.0;
        assert_eq!(env.rules.aim(&env.world), None);
        // The nearer of two stands in the way.
        let mut env = duel();
        env.world.objects[2].position = Point::new(4.5, 5.5);
        assert_eq!(env.rules.aim(&env.world), Some(2));
    }

    #[test]
    fn figures_move_and_never_into_walls() {
        let mut env = Targets::with(TargetsConfig::default()).unwrap();
        env.reset(5, 0).unwrap();
        let before: Vec<Point> = env.world.objects.iter().map(|o| o.position).collect();
        for i in 0..300 {
            env.step([4, 0, 5, 6][i % 4]).unwrap();
            for object in &env.world.objects {
                assert!(is_free(&env.world.map, object.position, 0.35), "step {i}: {object:?}");
            }
        }
        assert!(env.world.objects.iter().zip(before).all(|(o, b)| o.position != b));
    }
}
