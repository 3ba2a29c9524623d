//! What an agent sees of any environment: [`Environment`], [`Step`], [`Error`].
//!
//! The trait is small enough to stand in front of a simulator in another process: reset and step can fail, and an
//! observation is written where the caller wants it.

/// What can go wrong. Every variant prints as one line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of range.
    #[error("config key `{key}`: {reason}")]
    Config {
        /// The key (`controls.repeat`).
        key: &'static str,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// No environment has this name.
    #[error("unknown environment `{name}`; there are {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names there are, separated by commas.
        known: String,
    },
    /// An action outside the environment's range.
    #[error("{environment}: action {action}, expected 0 to {}", actions - 1)]
    Action {
        /// The environment.
        environment: String,
        /// The action that came.
        action: usize,
        /// How many there are.
        actions: usize,
    },
    /// A step or an observation where no episode runs: before the first reset, or a step behind the end.
    #[error("{environment}: no episode is running, reset it first")]
    NotRunning {
        /// The environment.
        environment: String,
    },
    /// A buffer that an observation does not fit.
    #[error("{environment}: the observation has {expected} bytes, the buffer {got}")]
    Buffer {
        /// The environment.
        environment: String,
        /// Height × width × 3.
        expected: usize,
        /// The buffer's length.
        got: usize,
    },
    /// A simulator outside this program refused, died or said something that makes no sense.
    #[error("{environment}: {reason}")]
    External {
        /// The environment.
        environment: String,
        /// What it said.
        reason: String,
    },
}

/// What environments return.
pub type Result<T> = std::result::Result<T, Error>;

/// Shape of an observation, in memory order `[height, width, 3]`, one byte per channel in the order red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// Channels of an observation.
    pub const CHANNELS: usize = 3;

    /// Bytes of one observation.
    pub fn bytes(self) -> usize {
        self.height * self.width * Self::CHANNELS
    }
}

/// What one action led to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Step {
    /// The sum of rewards over the action's frames.
    pub reward: f32,
    /// The episode is over; the next call must be a reset.
    pub done: bool,
    /// The episode is over because its time is, not because of where the agent is (Gymnasium's `truncated`). Only ever
    /// true where `done` is.
    pub truncated: bool,
}

/// A task that is seen through images and answered with one of a few actions.
///
/// The calls go `reset`, then `observe` and `step` in turn until a step is [`Step::done`]. An episode is a function of
/// its `(seed, episode)` and of the actions alone, so a batch of environments needs no state of its own to be resumed:
/// give environment `i` the seed `i` and count its episodes.
///
/// ```
/// use contrastive_scenes::{Environment, by_name};
///
/// let mut env = by_name("seek_avoid")?;
/// let mut pixels = vec![0; env.shape().bytes()];
/// env.reset(7, 0)?;
/// let mut total = 0.0;
/// loop {
///     env.observe(&mut pixels)?;
///     let step = env.step(0)?;
///     total += step.reward;
///     if step.done {
///         break;
///     }
/// }
/// # assert!(total.is_finite());
/// # Ok::<(), contrastive_scenes::Error>(())
/// ```
pub trait Environment: Send {
    /// The name, as [`crate::by_name`] takes it.
    fn name(&self) -> &str;

    /// Shape of an observation; it never changes.
    fn shape(&self) -> Shape;

    /// How many actions there are; an action is a number below it.
    fn actions(&self) -> usize;

    /// Frames that one step simulates, for the frame axis of a learning curve.
    fn frames_per_step(&self) -> u32 {
        1
    }

    /// Begins an episode. The same pair always begins the same one.
    ///
    /// # Errors
    /// If the settings leave no episode to build, or an outside simulator fails.
    fn reset(&mut self, seed: u64, episode: u64) -> Result<()>;

    /// Takes one action.
    ///
    /// # Errors
    /// If `action` is out of range, no episode runs, or an outside simulator fails.
    fn step(&mut self, action: usize) -> Result<Step>;

    /// Writes the present observation, `[height, width, 3]`, into `pixels`. It can be called as often as one likes, and
    /// behind the end of an episode too, where it gives the last sight.
    ///
    /// # Errors
    /// If `pixels` is not [`Shape::bytes`] long, or before the first reset.
    fn observe(&mut self, pixels: &mut [u8]) -> Result<()>;
}

impl<E: Environment + ?Sized> Environment for Box<E> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn shape(&self) -> Shape {
        (**self).shape()
    }

    fn actions(&self) -> usize {
        (**self).actions()
    }

    fn frames_per_step(&self) -> u32 {
        (**self).frames_per_step()
    }

    fn reset(&mut self, seed: u64, episode: u64) -> Result<()> {
        (**self).reset(seed, episode)
    }

    fn step(&mut self, action: usize) -> Result<Step> {
        (**self).step(action)
    }

    fn observe(&mut self, pixels: &mut [u8]) -> Result<()> {
        (**self).observe(pixels)
    }
}

/// An error about a setting.
pub(crate) fn config(key: &'static str, reason: impl Into<String>) -> Error {
    Error::Config { key, reason: reason.into() }
}
