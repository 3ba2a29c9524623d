//! A whole run from one value: settings and scenes in, trained encoders out.

use std::sync::Arc;

use contrastive_core::data::{Loader, LoaderOptions, Transform};
use contrastive_core::experiment::{RunOptions, RunParts, train_parts};
use contrastive_core::optim::ParamGroups;
use contrastive_core::train::Outcome;
use contrastive_core::{Error, Result};
use serde::Serialize;

use super::config::{Task, ViewsRun};
use super::method::ViewsCmc;
use super::scene::{Scene, Scenes, Window};

/// The window of a run over the columns that its views name.
///
/// # Errors
/// Views that the scenes do not have, or with other channels.
pub fn window(run: &ViewsRun, scenes: &Scenes) -> Result<Window> {
    let mut columns = Vec::with_capacity(run.method.views.len());
    for view in &run.method.views {
        let column = scenes.column(&view.name)?;
        let channels = scenes.views()[column].channels;
        if channels != view.channels {
            let reason = format!("`{}` has {channels} channels, not {}", view.name, view.channels);
            return Err(Error::config("method.views", reason));
        }
        columns.push(column);
    }
    Ok(Window { columns, side: run.window, labels: matches!(run.method.task, Task::Label { .. }) })
}

/// Scenes in, trained networks out. See [`contrastive_core::experiment::train`] for what the run directory holds.
///
/// # Errors
/// Settings out of range, a directory in use, data that does not fit, a loss that is not finite.
pub fn fit(run: &ViewsRun, scenes: Arc<Scenes>, options: RunOptions<'_>) -> Result<(ViewsCmc, Outcome)> {
    run.check()?;
    let window = window(run, &scenes)?;
    fit_views(run, run, (scenes, window), format!("windows of {} pixels", run.window), options)
}

/// The same by whatever makes a scene's views; `config` is what the run directory holds.
pub(super) fn fit_views<C: Serialize>(
    config: &C,
    run: &ViewsRun,
    (scenes, transform): (Arc<Scenes>, impl Transform<Scene> + 'static),
    preprocessing: String,
    options: RunOptions<'_>,
) -> Result<(ViewsCmc, Outcome)> {
    let loader = LoaderOptions {
        workers: options.workers,
        ..LoaderOptions::new(run.train.batch_size, run.train.seed)
    };
    let batches = Loader::new(scenes, transform, loader.on(&options.comm))?;
    let mut method = ViewsCmc::new(run.method.clone(), run.train.seed, &options.device)?;
    let parts = RunParts {
        config,
        train: &run.train,
        optim: &run.optim,
        groups: ParamGroups::new(),
        backbone: run.method.backbone(),
        preprocessing,
    };
    let outcome = train_parts(parts, &mut method, &batches, options)?;
    Ok((method, outcome))
}
