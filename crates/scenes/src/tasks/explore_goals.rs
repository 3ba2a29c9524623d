//! `explore_goals`: a new maze in each episode, goals in it, and a start anywhere after each goal reached.
//!
//! Modelled on DeepMind Lab's `explore_goal_locations_small`: layout, looks and goals are drawn for each episode and
//! then stay; reaching a goal pays 10 and puts the agent to a random place. What is asked is to explore quickly at first
//! and to remember the maze afterwards. An episode lasts 90 s at 15 steps a second, in a maze of 11 × 11 cells with up
//! to four rooms of 3 to 5 cells, as in the level.
//!
//! Departures: the level has one goal, here there are `goals` of them (three) so that a reward is met early on; set 1
//! for the level's own number. A few loops are cut, and the agent starts at some distance from all goals.

use super::{Game, Rules, Setting, check_length, check_rewards, no_floor};
use crate::action::Controls;
use crate::env::{Result, Step, config};
use crate::look::{self, Ceiling, Pattern, Shape, Style};
use crate::map::Point;
use crate::maze::{MazeConfig, maze};
use crate::render::View;
use crate::rng::Stream;
use crate::world::{Object, REACH, World};

/// Settings of [`ExploreGoals`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct ExploreGoalsConfig {
    /// The picture.
    pub view: View,
    /// How actions become motion.
    pub controls: Controls,
    /// Steps after which an episode ends.
    pub horizon: u32,
    /// The maze.
    pub maze: MazeConfig,
    /// How many goals there are, 1 to 64 and no more than the maze has corridors for.
    pub goals: usize,
    /// Distance that a start keeps from the goals, where the maze has room.
    pub apart: f64,
    /// What a goal pays.
    pub reward: f32,
}

impl Default for ExploreGoalsConfig {
    fn default() -> Self {
        Self {
            view: View::default(),
            controls: Controls::default(),
            horizon: 1350,
            maze: MazeConfig::default(),
            goals: 3,
            apart: 3.0,
            reward: 10.0,
        }
    }
}

impl ExploreGoalsConfig {
    /// A small maze with two goals, and episodes of 30 s.
    pub fn small() -> Self {
        Self {
            horizon: 450,
            maze: MazeConfig { width: 5, height: 5, rooms: 0, ..MazeConfig::default() },
            goals: 2,
            apart: 2.0,
            ..Self::default()
        }
    }
}

/// The rules of `explore_goals`.
#[derive(Debug, Clone)]
pub struct ExploreGoalsRules {
    config: ExploreGoalsConfig,
    goals: Vec<Point>,
}

/// The environment `explore_goals`.
pub type ExploreGoals = Game<ExploreGoalsRules>;

impl ExploreGoals {
    /// The environment of these settings.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn with(config: ExploreGoalsConfig) -> Result<Self> {
        Game::new(ExploreGoalsRules { config, goals: Vec::new() })
    }
}

impl ExploreGoalsRules {
    /// Where the goals are.
    pub fn goals(&self) -> &[Point] {
        &self.goals
    }
}

impl Rules for ExploreGoalsRules {
    const NAME: &'static str = "explore_goals";

    fn setting(&self) -> Setting {
        Setting { view: self.config.view, controls: self.config.controls, horizon: self.config.horizon }
    }

    fn check(&self) -> Result<()> {
        self.config.maze.check()?;
        check_length("apart", self.config.apart)?;
        let nodes = (self.config.maze.width / 2) * (self.config.maze.height / 2);
        let most = (nodes / 2).min(64);
        if !(1..=most).contains(&self.config.goals) {
            return Err(config("goals", format!("{} is not in 1 to {most}", self.config.goals)));
        }
        check_rewards(&[("reward", self.config.reward)])
    }

    fn begin(&mut self, rng: &mut Stream) -> Result<World> {
        let mut map = maze(&self.config.maze, rng)?;
        let styles = look::random_styles(6, 6, rng);
        look::decorate(&mut map, 6, 6, 4, 0.12, rng);
        let mut world = World::new(map);
        world.styles = styles;
        let floors = [
            ([146, 132, 110], [108, 96, 78]),
            ([112, 122, 112], [82, 92, 84]),
            ([126, 118, 132], [94, 88, 102]),
        ];
        let (base, accent) = floors[rng.below(floors.len())];
        world.floor = Style::new(Pattern::Tiles, base, accent);
        world.ceiling = Ceiling::Sky([88, 142, 214], [204, 224, 240]);
        self.goals.clear();
        for i in 0..self.config.goals {
            // Far from each other first, but anywhere rather than nowhere.
            let spot = world.free_spot(&self.goals, 3.0, rng).ok_or_else(no_floor)?;
            self.goals.push(spot.centre());
            let lolly = Object::new(spot.centre(), Shape::Lolly, [255, 140, 30], [252, 232, 200], i);
            world.objects.push(Object { size: 0.62, lift: 0.36, ..lolly });
        }
        self.start(&mut world, rng);
        Ok(world)
    }

    fn frame(&mut self, world: &mut World, rng: &mut Stream, step: &mut Step) {
        if self.goals.iter().any(|goal| world.agent.position.within(*goal, REACH)) {
            step.reward += self.config.reward;
            self.start(world, rng);
        }
    }
}

impl ExploreGoalsRules {
    fn start(&self, world: &mut World, rng: &mut Stream) {
        // A cell apart at the very least: a start on a goal would pay for nothing.
        if let Some(spot) = world.free_spot(&self.goals, self.config.apart.max(1.0), rng) {
            world.place_agent(spot, rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Environment;

    #[test]
    fn goals_can_be_reached_stay_and_pay() {
        for seed in 0..30 {
            let mut env = ExploreGoals::with(ExploreGoalsConfig::default()).unwrap();
            env.reset(seed, 3).unwrap();
            let goals = env.rules.goals().to_vec();
            let start = env.world.agent.position.spot();
            let distance = env.world.map.distances(start, |s| env.world.map.get(s).is_open());
            for goal in &goals {
                let spot = goal.spot();
                assert!(distance[spot.y * env.world.map.width() + spot.x].is_some_and(|d| d > 0));
            }
            env.world.agent.position = goals[0];
            assert_eq!(env.step(4).unwrap().reward, 10.0);
            assert_eq!(env.rules.goals(), goals);
            assert!(goals.iter().all(|g| !g.within(env.world.agent.position, 0.9)));
        }
    }

    #[test]
    fn each_episode_has_its_own_maze() {
        let mut env = ExploreGoals::with(ExploreGoalsConfig::default()).unwrap();
        env.reset(0, 0).unwrap();
        let first = env.world.map.clone();
        env.reset(0, 1).unwrap();
        assert_ne!(env.world.map, first);
        env.reset(0, 0).unwrap();
        assert_eq!(env.world.map, first);
    }
}
