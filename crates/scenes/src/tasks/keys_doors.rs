//! `keys_doors`: coloured keys open doors of their colour; the goal is behind the last one.
//!
//! Modelled on DeepMind Lab's `rooms_keys_doors_puzzle`, with its rules: a key is used up by the door it opens, only one
//! is carried, taking another loses the first, and keys or doors in the wrong order can make the goal unreachable. A key
//! pays 1, a door 1, the goal 50 and ends the episode, which otherwise lasts 60 s at 15 steps a second. The colour
//! carried is shown in a corner of the picture.
//!
//! Departures: the puzzles are those of [`crate::puzzle`] (a tree of square rooms), and a door opens when one leans on
//! it with its key.

use super::{Game, Rules, Setting, check_rewards};
use crate::action::Controls;
use crate::env::{Result, Step};
use crate::look::{self, Ceiling, Pattern, Shape, Style};
use crate::map::{Axis, Cell, Point};
use crate::puzzle::{COLOURS, Door, Puzzle, PuzzleConfig, colour, puzzle};
use crate::render::View;
use crate::rng::Stream;
use crate::world::{AGENT_RADIUS, Object, REACH, World};

/// Settings of [`KeysDoors`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct KeysDoorsConfig {
    /// The picture.
    pub view: View,
    /// How actions become motion.
    pub controls: Controls,
    /// Steps after which an episode ends.
    pub horizon: u32,
    /// The puzzle.
    pub puzzle: PuzzleConfig,
    /// What taking a key pays.
    pub key_reward: f32,
    /// What opening a door pays.
    pub door_reward: f32,
    /// What the goal pays.
    pub goal_reward: f32,
}

impl Default for KeysDoorsConfig {
    fn default() -> Self {
        Self {
            view: View::default(),
            controls: Controls::default(),
            horizon: 900,
            puzzle: PuzzleConfig::default(),
            key_reward: 1.0,
            door_reward: 1.0,
            goal_reward: 50.0,
        }
    }
}

impl KeysDoorsConfig {
    /// Two rows of two small rooms with one door and no useless key, and episodes of 30 s.
    pub fn small() -> Self {
        Self {
            horizon: 450,
            puzzle: PuzzleConfig { columns: 2, rows: 2, room: 3, doors: 1, decoys: 0 },
            ..Self::default()
        }
    }
}

/// Tag of the goal; keys have their colour as tag.
pub const GOAL: usize = usize::MAX;

/// Gap between body and door within which a door notices a key.
const TOUCH: f64 = 0.08;

/// The rules of `keys_doors`.
#[derive(Debug, Clone)]
pub struct KeysDoorsRules {
    config: KeysDoorsConfig,
    puzzle: Option<Puzzle>,
    closed: Vec<Door>,
    carried: Option<usize>,
}

/// The environment `keys_doors`.
pub type KeysDoors = Game<KeysDoorsRules>;

impl KeysDoors {
    /// The environment of these settings.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn with(config: KeysDoorsConfig) -> Result<Self> {
        Game::new(KeysDoorsRules { config, puzzle: None, closed: Vec::new(), carried: None })
    }
}

impl KeysDoorsRules {
    /// The puzzle as it was at the start of the episode; `None` before the first reset.
    pub fn puzzle(&self) -> Option<&Puzzle> {
        self.puzzle.as_ref()
    }

    /// Colour of the key that the agent carries.
    pub fn carried(&self) -> Option<usize> {
        self.carried
    }
}

impl Rules for KeysDoorsRules {
    const NAME: &'static str = "keys_doors";

    fn setting(&self) -> Setting {
        Setting { view: self.config.view, controls: self.config.controls, horizon: self.config.horizon }
    }

    fn check(&self) -> Result<()> {
        self.config.puzzle.check()?;
        check_rewards(&[
            ("key_reward", self.config.key_reward),
            ("door_reward", self.config.door_reward),
            ("goal_reward", self.config.goal_reward),
        ])
    }

    fn begin(&mut self, rng: &mut Stream) -> Result<World> {
        let puzzle = puzzle(&self.config.puzzle, rng)?;
        let mut map = puzzle.map.clone();
        // Doors have the styles 0 to COLOURS − 1, walls those behind them.
        let mut styles: Vec<Style> =
            (0..COLOURS).map(|c| Style::new(Pattern::Door, colour(c), colour(c).map(|v| v / 3))).collect();
        styles.extend(look::random_styles(5, 4, rng));
        look::decorate(&mut map, 5, 4, self.config.puzzle.room + 1, 0.08, rng);
        for spot in map.spots() {
            if let Cell::Wall(style) = map.get(spot) {
                map.set(spot, Cell::Wall(style + COLOURS as u8));
            }
        }
        let mut world = World::new(map);
        world.styles = styles;
        world.floor = Style::new(Pattern::Planks, [150, 112, 74], [104, 74, 46]);
        world.ceiling = Ceiling::Roof(Style::new(Pattern::Panel, [206, 204, 198], [170, 168, 164]));
        for key in &puzzle.keys {
            let colour = colour(key.colour);
            world.objects.push(Object::new(key.spot.centre(), Shape::Key, colour, colour, key.colour));
        }
        let lolly = Object::new(puzzle.goal.centre(), Shape::Lolly, [255, 140, 30], [252, 232, 200], GOAL);
        world.objects.push(Object { size: 0.62, lift: 0.36, ..lolly });
        world.place_agent(puzzle.start, rng);
        self.closed = puzzle.doors.clone();
        self.carried = None;
        self.puzzle = Some(puzzle);
        Ok(world)
    }

    fn frame(&mut self, world: &mut World, _: &mut Stream, step: &mut Step) {
        let position = world.agent.position;
        let (config, carried) = (&self.config, &mut self.carried);
        world.objects.retain(|object| {
            let taken = position.within(object.position, REACH);
            if taken && object.tag == GOAL {
                step.reward += config.goal_reward;
                step.done = true;
            } else if taken {
                step.reward += config.key_reward;
                *carried = Some(object.tag);
            }
            !taken
        });
        if let Some(key) = self.carried {
            let fits = |door: &Door| door.colour == key && touches(position, door);
            if let Some(at) = self.closed.iter().position(fits) {
                let door = self.closed.remove(at);
                let open = Cell::Door { style: door.colour as u8, through: door.through, open: true };
                world.map.set(door.spot, open);
                step.reward += self.config.door_reward;
                self.carried = None;
            }
        }
        world.badge = self.carried.map(colour);
    }
}

/// True for a body that leans on a door from the cell before or behind it.
fn touches(position: Point, door: &Door) -> bool {
    let spot = position.spot();
    if !door.spot.neighbours().any(|s| s == spot) {
        return false;
    }
    let centre = door.spot.centre();
    let (across, aside) = match door.through {
        Axis::X => (position.x - centre.x, spot.y == door.spot.y),
        Axis::Y => (position.y - centre.y, spot.x == door.spot.x),
    };
    aside && across.abs() <= 0.5 + AGENT_RADIUS + TOUCH
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::angle::Angle;
    use crate::env::Environment;

    fn before(door: &Door) -> (Point, Angle) {
        let centre = door.spot.centre();
        match door.through {
            Axis::X => (Point::new(centre.x - 1.0, centre.y), Angle::new(0)),
            Axis::Y => (Point::new(centre.x, centre.y - 1.0), Angle::new(90)),
        }
    }

    #[test]
    fn a_door_stays_shut_without_its_key_and_uses_it_up() {
        for seed in 0..20 {
            let mut env = KeysDoors::with(KeysDoorsConfig::default()).unwrap();
            env.reset(seed, 0).unwrap();
            let door = env.rules.puzzle().unwrap().doors[0];
            let wrong = (door.colour + 1) % COLOURS;
            for (carried, opens) in [(None, false), (Some(wrong), false), (Some(door.colour), true)] {
                env.reset(seed, 0).unwrap();
                env.world.objects.clear();
                (env.world.agent.position, env.world.agent.heading) = before(&door);
                env.rules.carried = carried;
                let mut reward = 0.0;
                for _ in 0..12 {
                    reward += env.step(0).unwrap().reward;
                }
                let beyond = !before(&door).0.within(env.world.agent.position, 1.0);
                assert_eq!((env.world.map.get(door.spot).is_open(), beyond), (opens, opens), "seed {seed}");
                assert_eq!(reward, f32::from(opens));
                assert_eq!(env.rules.carried(), if opens { None } else { carried });
            }
        }
    }

    #[test]
    fn a_second_key_takes_the_place_of_the_first_and_the_goal_ends_it() {
        let mut env = KeysDoors::with(KeysDoorsConfig::default()).unwrap();
        env.reset(2, 0).unwrap();
        let keys = env.rules.puzzle().unwrap().keys.clone();
        for key in &keys[..2] {
            env.world.agent.position = key.spot.centre();
            assert_eq!(env.step(8).unwrap().reward, 1.0);
            assert_eq!(env.rules.carried(), Some(key.colour));
            assert_eq!(env.world.badge, Some(colour(key.colour)));
        }
        assert_eq!(env.world.objects.len(), keys.len() - 1);
        env.world.agent.position = env.rules.puzzle().unwrap().goal.centre();
        let last = env.step(0).unwrap();
        assert_eq!((last.reward, last.done, last.truncated), (50.0, true, false));
        assert!(env.step(0).is_err());
    }
}
