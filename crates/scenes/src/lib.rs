//! First-person mazes rendered on the CPU, for reinforcement learning from pixels; and furnished rooms in several views
//! ([`rooms`]), for learning from what views share.
//!
//! CPC (van den Oord, Li, Vinyals 2018, section 3.4) adds its loss to an actor-critic on five levels of DeepMind Lab.
//! That simulator does not build everywhere and is not reproducible to the byte; here are five tasks modelled on those
//! levels in what they ask of an agent, in a few thousand lines without a dependency on a graphics card or a game
//! engine.
//!
//! | task | level of DeepMind Lab | what it asks |
//! | --- | --- | --- |
//! | [`watermaze`](tasks::watermaze) | `rooms_watermaze` | find what cannot be seen, then remember where it was |
//! | [`explore_goals`](tasks::explore_goals) | `explore_goal_locations_small` | explore a new maze, then know it |
//! | [`seek_avoid`](tasks::seek_avoid) | `seekavoid_arena_01` | take good objects, leave bad ones |
//! | [`targets`](tasks::targets) | `lasertag_three_opponents_small` | aim and shoot: no memory needed |
//! | [`keys_doors`](tasks::keys_doors) | `rooms_keys_doors_puzzle` | use keys in the right order |
//!
//! Returns here are not comparable with the paper's.
//!
//! | file | holds |
//! | --- | --- |
//! | [`mod@env`] | [`Environment`], [`Step`], [`Error`]: all that an agent needs to know |
//! | [`action`] | IMPALA's nine actions and how they become motion |
//! | [`angle`], [`rng`] | headings with exact sines; streams keyed by seed, episode and purpose |
//! | [`map`], [`ray`] | the ground plan, shortest ways, one ray over it |
//! | [`maze`], [`puzzle`] | generators of mazes and of key and door puzzles |
//! | [`look`], [`world`] | colours, patterns and shapes; the agent's body, objects, collisions |
//! | [`render`] | from a world to pixels |
//! | [`rooms`] | furnished rooms in several views: colour, depth, normals, labels, motion |
//! | [`tasks`] | the rules of the five tasks, and the game that runs them |
//!
//! # Reproducibility
//! An episode is a function of the task's settings, a seed, an episode number and the actions, to the last bit of its
//! rewards and pixels, on any machine with IEEE arithmetic: state is computed by additions, products, divisions and
//! roots only, sines come from a table that the compiler makes, and no draw depends on another environment's.

pub mod action;
pub mod angle;
pub mod env;
pub mod look;
pub mod map;
pub mod maze;
pub mod puzzle;
pub mod ray;
pub mod registry;
pub mod render;
pub mod rng;
pub mod rooms;
pub mod tasks;
pub mod world;

pub use action::{Action, Controls};
pub use env::{Environment, Error, Result, Shape, Step};
pub use registry::{NAMES, SMALL_NAMES, by_name, by_name_with_view};
pub use render::View;
