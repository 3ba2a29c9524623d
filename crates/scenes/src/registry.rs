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
    Ok(match name {
        "watermaze" => Box::new(Watermaze::with(WatermazeConfig { view, ..Default::default() })?),
        "explore_goals" => Box::new(ExploreGoals::with(ExploreGoalsConfig { view, ..Default::default() })?),
        "seek_avoid" => Box::new(SeekAvoid::with(SeekAvoidConfig { view, ..Default::default() })?),
        "targets" => Box::new(Targets::with(TargetsConfig { view, ..Default::default() })?),
        "keys_doors" => Box::new(KeysDoors::with(KeysDoorsConfig { view, ..Default::default() })?),
        _ => return Err(Error::Unknown { name: name.to_owned(), known: NAMES.join(", ") }),
    })
}
