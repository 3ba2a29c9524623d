//! Presets of runs on scenes.

use contrastive_core::Result;
use contrastive_core::experiment::{OptimConfig, unknown_preset};
use contrastive_core::optim::{AdamConfig, LrScaling, OptimizerConfig, Schedule};
use contrastive_core::train::TrainConfig;

use super::config::{Between, Task, ViewsConfig, ViewsRun};
use super::scene::View;
use crate::config::Graph;

/// The names that [`preset`] knows, each with where its settings come from.
pub const PRESETS: [(&str, &str); 2] = [
    ("rooms-paper", "the paper's four views of NYU-Depth-v2 in windows of 128 pixels, as far as it says"),
    ("rooms-smoke", "the same views of small rendered rooms: a minute on two cores"),
];

/// The views of a room, in the paper's order; the first is the core view.
pub fn views() -> Vec<View> {
    vec![View::new("L", 1), View::new("ab", 2), View::new("depth", 1), View::new("normal", 3)]
}

/// The preset of this name.
///
/// # Errors
/// [`contrastive_core::Error::Config`] listing the known names.
pub fn preset(name: &str) -> Result<ViewsRun> {
    match name {
        "rooms-paper" => Ok(run(64, 128, [200, 64], Between::PatchesAndWindows)),
        "rooms-smoke" => Ok(run(12, 32, [24, 48], Between::Alike)),
        _ => Err(unknown_preset(name, &PRESETS)),
    }
}

fn run(width: usize, window: usize, [epochs, batch_size]: [usize; 2], between: Between) -> ViewsRun {
    ViewsRun {
        method: ViewsConfig {
            views: views(),
            width,
            output: 64,
            task: Task::Contrast { temperature: 0.1, graph: Graph::Core, between },
            sync_batch_norm: true,
        },
        train: TrainConfig { epochs: epochs as u64, batch_size, ..TrainConfig::default() },
        optim: OptimConfig {
            lr: 2e-3,
            lr_scaling: LrScaling::None,
            schedule: Schedule::WarmupCosine { warmup_epochs: 0.0, end: 0.0, start: 0.0 },
            optimizer: OptimizerConfig::Adam(AdamConfig::default()),
            weight_decay_end: None,
        },
        window,
    }
}
