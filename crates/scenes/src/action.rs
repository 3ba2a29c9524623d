//! The nine actions of IMPALA (Espeholt et al. 2018, appendix), in the order of its published action set.

use crate::env::{Result, config};

/// What the agent can do in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Walk ahead.
    Forward,
    /// Walk back.
    Backward,
    /// Step to the left without turning.
    StrafeLeft,
    /// Step to the right without turning.
    StrafeRight,
    /// Turn left.
    LookLeft,
    /// Turn right.
    LookRight,
    /// Turn left while walking ahead.
    LookLeftForward,
    /// Turn right while walking ahead.
    LookRightForward,
    /// Shoot; only [`crate::tasks::targets`] answers to it.
    Fire,
}

impl Action {
    /// All actions; an action's number is its place here.
    pub const ALL: [Action; 9] = [
        Action::Forward,
        Action::Backward,
        Action::StrafeLeft,
        Action::StrafeRight,
        Action::LookLeft,
        Action::LookRight,
        Action::LookLeftForward,
        Action::LookRightForward,
        Action::Fire,
    ];

    /// The action of a number.
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// The number of this action.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Steps ahead (−1, 0 or 1).
    pub(crate) fn ahead(self) -> f64 {
        match self {
            Action::Forward | Action::LookLeftForward | Action::LookRightForward => 1.0,
            Action::Backward => -1.0,
            _ => 0.0,
        }
    }

    /// Steps to the right (−1, 0 or 1).
    pub(crate) fn aside(self) -> f64 {
        match self {
            Action::StrafeLeft => -1.0,
            Action::StrafeRight => 1.0,
            _ => 0.0,
        }
    }

    /// Turns to the right (−1, 0 or 1).
    pub(crate) fn turn(self) -> i32 {
        match self {
            Action::LookLeft | Action::LookLeftForward => -1,
            Action::LookRight | Action::LookRightForward => 1,
            _ => 0,
        }
    }
}

/// How actions become motion. A *frame* is a sixtieth of a second in DeepMind Lab's levels.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Controls {
    /// Frames that an action lasts (IMPALA: 4). Must lie in 1 to 64.
    pub repeat: u32,
    /// Cells per frame, at most half of one. The default is DeepMind Lab's 320 units a second in cells of 100 units.
    pub speed: f64,
    /// Degrees that a look action turns in all, spread over its frames.
    pub turn: u32,
}

impl Default for Controls {
    fn default() -> Self {
        Self { repeat: 4, speed: 0.053, turn: 20 }
    }
}

impl Controls {
    /// Refuses what cannot be simulated.
    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=64).contains(&self.repeat) {
            return Err(config("controls.repeat", format!("{} is not in 1 to 64", self.repeat)));
        }
        if !(self.speed > 0.0 && self.speed <= 0.5) {
            return Err(config(
                "controls.speed",
                format!("{} is not in (0, 0.5] cells per frame", self.speed),
            ));
        }
        if !(1..=180).contains(&self.turn) {
            return Err(config("controls.turn", format!("{} is not in 1 to 180 degrees", self.turn)));
        }
        Ok(())
    }

    /// Degrees that frame `index` of a look action turns: whole numbers that sum to `turn`.
    pub(crate) fn turn_of_frame(&self, index: u32) -> i32 {
        (self.turn * (index + 1) / self.repeat - self.turn * index / self.repeat) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_actions_agree() {
        for (i, action) in Action::ALL.into_iter().enumerate() {
            assert_eq!(action.index(), i);
            assert_eq!(Action::from_index(i), Some(action));
        }
        assert_eq!(Action::from_index(9), None);
    }

    #[test]
    fn a_turn_is_the_same_for_any_number_of_frames() {
        for repeat in 1..=64 {
            for turn in [1, 7, 20, 180] {
                let controls = Controls { repeat, turn, ..Controls::default() };
                let sum: i32 = (0..repeat).map(|i| controls.turn_of_frame(i)).sum();
                assert_eq!(sum, turn as i32, "{repeat} frames");
            }
        }
    }
}
