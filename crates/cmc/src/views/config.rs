//! Settings of runs on scenes.

use contrastive_core::experiment::{OptimConfig, config_hash};
use contrastive_core::train::TrainConfig;
use contrastive_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::scene::View;
use crate::config::Graph;
use crate::loss::Distance;

/// The views, their networks and what they are trained to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewsConfig {
    /// The views by name; the first is the core view. Columns of the data.
    pub views: Vec<View>,
    /// Channels of an encoder's first stage; later ones have 2, 4 and 8 times as many.
    pub width: usize,
    /// Width of the embeddings.
    pub output: usize,
    /// What is learned.
    pub task: Task,
    /// Batch statistics over all ranks instead of each rank's own.
    pub sync_batch_norm: bool,
}

/// What is learned from scenes; in a file, the table's `kind` is `"contrast"`, `"predict"` or `"label"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Task {
    /// Views are contrasted within the batch. A single view is compared with itself, its patches against whole windows:
    /// Deep InfoMax.
    Contrast {
        /// τ, above 0.
        temperature: f64,
        /// Which pairs of views.
        graph: Graph,
        /// What of two views is compared.
        between: Between,
    },
    /// The second view is predicted from the first through a U-shaped decoder: the paper's predictive baseline.
    Predict {
        /// How a prediction is held against the real view.
        distance: Distance,
    },
    /// The same for views of classes: two channels (ab) in `cells`² cells of colour, by cross-entropy.
    PredictCells {
        /// Cells of each channel.
        cells: usize,
    },
    /// Each pixel's label is predicted from the first view: supervised segmentation.
    Label {
        /// How many classes there are.
        classes: usize,
    },
}

/// What of two views is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Between {
    /// Patches of each with whole windows of the other, as the paper has it ([`crate::loss::local_global`]).
    PatchesAndWindows,
    /// Patches with patches at the same place ([`crate::loss::places`]), a quarter of them in a step, and whole windows
    /// with whole windows ([`crate::loss::in_batch`]).
    Alike,
    /// Whole windows with whole windows alone.
    Windows,
}

impl ViewsConfig {
    /// Checks every range. `at` is where these settings stand in the whole configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and what is allowed.
    pub fn check(&self, at: &str) -> Result<()> {
        let fail = |key: &str, reason: String| Err(Error::config(format!("{at}.{key}"), reason));
        let names: Vec<&str> = self.views.iter().map(|view| view.name.as_str()).collect();
        if names.is_empty() || names.iter().enumerate().any(|(i, name)| names[..i].contains(name)) {
            return fail("views", format!("at least one, each once; got {names:?}"));
        }
        if let Some(view) = self.views.iter().find(|view| !(1..=4096).contains(&view.channels)) {
            return fail("views", format!("`{}`: {} channels are not in 1..=4096", view.name, view.channels));
        }
        for (key, value) in [("width", self.width), ("output", self.output)] {
            if !(1..=4096).contains(&value) {
                return fail(key, format!("{value} is not in 1..=4096"));
            }
        }
        match self.task {
            Task::Contrast { temperature, .. } if !(temperature > 0.0 && temperature.is_finite()) => {
                fail("task.temperature", format!("must be above 0 and finite, got {temperature}"))
            }
            Task::Predict { .. } if self.views.len() != 2 => {
                fail("views", format!("prediction takes 2, got {}", self.views.len()))
            }
            Task::PredictCells { cells } => {
                if self.views.len() != 2 || self.views[1].channels != 2 {
                    return fail(
                        "views",
                        "cells of colour are predicted for a second view of 2 channels".into(),
                    );
                }
                if (2..=64).contains(&cells) {
                    Ok(())
                } else {
                    fail("task.cells", format!("{cells} is not in 2..=64"))
                }
            }
            Task::Label { .. } if self.views.len() != 1 => {
                fail("views", format!("labels are predicted from 1, got {}", self.views.len()))
            }
            Task::Label { classes } if !(2..=256).contains(&classes) => {
                fail("task.classes", format!("{classes} is not in 2..=256"))
            }
            _ => Ok(()),
        }
    }

    /// Channels that a decoder gives, where the task has one.
    pub fn decoded(&self) -> Option<usize> {
        match self.task {
            Task::Contrast { .. } => None,
            Task::Predict { .. } => self.views.get(1).map(|view| view.channels),
            Task::PredictCells { cells } => Some(cells * cells),
            Task::Label { classes } => Some(classes),
        }
    }

    /// The networks in words: `views-L+ab+depth-w16`.
    pub fn backbone(&self) -> String {
        let names: Vec<&str> = self.views.iter().map(|view| view.name.as_str()).collect();
        format!("views-{}-w{}", names.join("+"), self.width)
    }
}

/// Everything that decides the result of a run on scenes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewsRun {
    /// Views, networks and task.
    pub method: ViewsConfig,
    /// The loop.
    pub train: TrainConfig,
    /// The optimiser.
    pub optim: OptimConfig,
    /// Side of the random windows in pixels, a multiple of 8.
    pub window: usize,
}

impl ViewsRun {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault.
    pub fn check(&self) -> Result<()> {
        self.method.check("method")?;
        self.train.check("train")?;
        self.optim.check("optim")?;
        if self.window == 0 || !self.window.is_multiple_of(8) || self.window > 4096 {
            return Err(Error::config(
                "window",
                format!("{} is not a multiple of 8 up to 4096", self.window),
            ));
        }
        Ok(())
    }

    /// A hash of the configuration.
    ///
    /// # Errors
    /// A configuration that does not serialise.
    pub fn hash(&self) -> Result<String> {
        config_hash(self)
    }
}
