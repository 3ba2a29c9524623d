//! Environments by name.

use crate::env::{Environment, Error, Result};
use crate::render::View;
use crate::tasks::explore_goals::{ExploreGoals, ExploreGoalsConfig};
use crate::tasks::keys_doors::{KeysDoors, KeysDoorsConfig};
use crate::tasks::seek_avoid::{SeekAvoid, SeekAvoidConfig};
use crate::tasks::targets::{Targets, TargetsConfig};
use crate::tasks::watermaze::{Watermaze, WatermazeConfig};

/// The names that [`by_name`] knows, in the order of the paper's figure 6.
pub const NAMES: [&str; 5] = ["watermaze", "explore_goals", "seek_avoid", "targets", "keys_doors"];

/// The same tasks in a smaller world with more to find in it ([`SeekAvoidConfig::small`] and so on): what an agent can
/// learn in minutes on a CPU, where the levels take it billions of frames.
pub const SMALL_NAMES: [&str; 5] =
    ["watermaze_small", "explore_goals_small", "seek_avoid_small", "targets_small", "keys_doors_small"];

/// The environment of a name with its default settings.
///
/// # Errors
/// If there is none of this name; the error lists those there are.
pub fn by_name(name: &str) -> Result<Box<dyn Environment>> {
    by_name_with_view(name, View::default())
}

/// The environment of a name with its default settings, seen through another view.
///
/// # Errors
/// If there is none of this name, or the view cannot be drawn.
pub fn by_name_with_view(name: &str, view: View) -> Result<Box<dyn Environment>> {
    let (watermaze, explore_goals, seek_avoid, targets, keys_doors) = if SMALL_NAMES.contains(&name) {
        (
            WatermazeConfig::small(),
            ExploreGoalsConfig::small(),
            SeekAvoidConfig::small(),
            TargetsConfig::small(),
            KeysDoorsConfig::small(),
        )
    } else {
        Default::default()
    };
    Ok(match name.strip_suffix("_small").unwrap_or(name) {
        "watermaze" => Box::new(Watermaze::with(WatermazeConfig { view, ..watermaze })?),
        "explore_goals" => Box::new(ExploreGoals::with(ExploreGoalsConfig { view, ..explore_goals })?),
        "seek_avoid" => Box::new(SeekAvoid::with(SeekAvoidConfig { view, ..seek_avoid })?),
        "targets" => Box::new(Targets::with(TargetsConfig { view, ..targets })?),
        "keys_doors" => Box::new(KeysDoors::with(KeysDoorsConfig { view, ..keys_doors })?),
        _ => {
            return Err(Error::Unknown {
                name: name.to_owned(),
                known: [NAMES, SMALL_NAMES].concat().join(", "),
            });
        }
    })
}
