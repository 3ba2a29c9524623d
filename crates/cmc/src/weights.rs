//! Names in checkpoints.
//!
//! A training checkpoint holds the encoders as `backbone.0.*` (brightness) and `backbone.1.*` (colour), their heads as
//! `head.0.*` and `head.1.*`, and as state one memory bank `[N, D]` for each view ([`bank_name`]) and [`Z`], two numbers
//! for each pair of views: from the first to the second, and back. An exported encoder holds both networks under `0.*`
//! and `1.*`, without heads.
//!
//! The official checkpoints hold the networks under `model` as `encoder.module.l_to_ab.*` and `encoder.module.ab_to_l.*`:
//! torchvision's names, or `conv_block_1.0.weight`, which are ours too, for AlexNet. [`from_official`] converts them.

use contrastive_core::augment::ColorSpace;
use contrastive_core::weights::torch::Checkpoint;
use contrastive_core::weights::{Hints, Named};
use contrastive_core::{Error, Result};

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the heads in the parameter store.
pub const HEAD: &str = "head";
/// The normalisation constants in the state; -1 before the first step.
pub const Z: &str = "z";
/// What the two sides of a colour split are called.
pub const SIDES: [&str; 2] = ["brightness", "colour"];

/// The memory bank of a view in the state.
pub fn bank_name(view: &str) -> String {
    format!("bank.{view}")
}

/// The networks of a colour split from the official checkpoints (HobbitLong/CMC, `CMC_resnet50.pth`): both halves under
/// `0.*` and `1.*`, their last layers as `head.0.0.*` and `head.1.0.*`. Images are prepared as for its ResNets: in Lab.
///
/// # Errors
/// [`Error::Format`] for a file without these names; as [`Checkpoint::read`].
pub fn from_official(checkpoint: &mut Checkpoint) -> Result<Named> {
    let path = checkpoint.path().to_path_buf();
    let table = checkpoint.tables().get("model").cloned().unwrap_or_default();
    let (mut backbone, mut heads, mut counters) = (Vec::new(), Vec::new(), 0);
    for (full, stored) in &table {
        let Some(name) = full.strip_prefix("encoder.") else { continue };
        let name = name.strip_prefix("module.").unwrap_or(name);
        let halves = ["l_to_ab.", "ab_to_l."];
        let half = halves.iter().enumerate().find_map(|(i, half)| Some((i, name.strip_prefix(half)?)));
        let Some((half, name)) = half else { continue };
        if name.ends_with("num_batches_tracked") {
            counters += 1;
        } else if let Some(leaf) = name.strip_prefix("fc.").or(name.strip_prefix("fc8.0.")) {
            heads.push((format!("{HEAD}.{half}.0.{leaf}"), checkpoint.read(stored)?));
        } else {
            backbone.push((format!("{half}.{name}"), checkpoint.read(stored)?));
        }
    }
    if backbone.is_empty() {
        let reason = "has no `model` with `encoder.module.l_to_ab`: not of HobbitLong/CMC";
        return Err(Error::format(path, reason));
    }
    Ok(Named {
        method: "cmc".to_string(),
        branch: "online".to_string(),
        left_out: table.len() - backbone.len() - heads.len() - counters,
        backbone,
        heads,
        hints: Hints::default(),
        eval: crate::recipe::eval(ColorSpace::Lab, Some(256), Some(224)),
        data: "imagenet-1k".to_string(),
        licence: "BSD-2-Clause".to_string(),
        repository: "HobbitLong/CMC".to_string(),
    })
}

#[cfg(test)]
mod tests;
