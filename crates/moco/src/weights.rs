//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*` and `head.*` (v3: `projector.*`, `predictor.*`), the key encoder as
//! `momentum.*` and the queue as `queue`, `queue.next`, `queue.pushed`; an exported encoder holds the query encoder's
//! backbone under torchvision's or timm's names. [`PUBLISHED`] says how the authors' files name the same things.

use contrastive_core::augment::Interpolation;
use contrastive_core::weights::published::{Branch, Published, imagenet_eval};

use crate::config::TransformerConfig;

pub use contrastive_core::nn::BACKBONE;
/// Prefix of v1's and v2's head in the parameter store.
pub const HEAD: &str = "head";
/// Prefix of v3's projector in the parameter store.
pub const PROJECTOR: &str = "projector";
/// Prefix of v3's predictor in the parameter store.
pub const PREDICTOR: &str = "predictor";
/// The queue's name in checkpoints.
pub const QUEUE: &str = "queue";
/// A transformer's positions, under the backbone.
pub const POSITIONS: &str = "pos_embed";
/// Prefix of a transformer's patch projection, under the backbone.
pub const PATCHES: &str = "patch_embed";

/// Whether v3 leaves this parameter as it began.
pub fn is_fixed(config: &TransformerConfig, name: &str) -> bool {
    let Some(name) = name.strip_prefix(BACKBONE).and_then(|name| name.strip_prefix('.')) else {
        return false;
    };
    (config.sin_cos && name == POSITIONS) || (config.frozen_patches && name.starts_with(PATCHES))
}

/// The files of facebookresearch/moco and facebookresearch/moco-v3. The queue is left out: nothing but training goes on
/// from it.
pub const PUBLISHED: &[Published] = &[
    Published {
        method: "moco-v1",
        file: "pretraining checkpoint",
        repository: "facebookresearch/moco",
        has: &["encoder_q.conv1.weight", "encoder_q.fc.weight", "encoder_k.", "queue"],
        lacks: &[],
        rows: None,
        branches: &[
            Branch {
                name: "online",
                tables: &["state_dict"],
                prefix: "encoder_q.",
                parts: &[("fc.", "head.0.")],
                beside: &[],
                backbone: true,
            },
            Branch {
                name: "target",
                tables: &["state_dict"],
                prefix: "encoder_k.",
                parts: &[("fc.", "head.0.")],
                beside: &[],
                backbone: true,
            },
        ],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "CC-BY-NC-4.0",
        eval: || imagenet_eval(Interpolation::Bilinear),
    },
    Published {
        method: "moco-v2",
        file: "pretraining checkpoint",
        repository: "facebookresearch/moco",
        has: &["encoder_q.conv1.weight", "encoder_q.fc.0.weight", "encoder_k.", "queue"],
        lacks: &[],
        rows: None,
        branches: &[
            Branch {
                name: "online",
                tables: &["state_dict"],
                prefix: "encoder_q.",
                parts: &[("fc.", "head.")],
                beside: &[],
                backbone: true,
            },
            Branch {
                name: "target",
                tables: &["state_dict"],
                prefix: "encoder_k.",
                parts: &[("fc.", "head.")],
                beside: &[],
                backbone: true,
            },
        ],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "CC-BY-NC-4.0",
        eval: || imagenet_eval(Interpolation::Bilinear),
    },
    Published {
        method: "moco-v3",
        file: "pretraining checkpoint",
        repository: "facebookresearch/moco-v3",
        has: &["base_encoder.", "momentum_encoder.", "predictor."],
        lacks: &[],
        rows: None,
        branches: &[
            Branch {
                name: "online",
                tables: &["state_dict"],
                prefix: "base_encoder.",
                parts: &[("fc.", "projector."), ("head.", "projector.")],
                beside: &[("predictor.", "predictor.")],
                backbone: true,
            },
            Branch {
                name: "target",
                tables: &["state_dict"],
                prefix: "momentum_encoder.",
                parts: &[("fc.", "projector."), ("head.", "projector.")],
                beside: &[],
                backbone: true,
            },
        ],
        attention_heads: &[(384, 12)],
        data: "imagenet-1k",
        licence: "CC-BY-NC-4.0",
        eval: || imagenet_eval(Interpolation::Bilinear),
    },
];

/// A backbone of MoCo from a model repository of the Hub (`owner/name`), or from its cache: with its preprocessing,
/// branch, licence and commit. Weights without a manifest (timm's, those of `transformers`) say nothing of their method and
/// are taken.
///
/// # Errors
/// As [`contrastive_core::weights::Pretrained::load`]; weights of another method.
#[cfg(feature = "hub")]
pub fn load(repository: &str) -> contrastive_core::Result<contrastive_core::weights::Pretrained> {
    contrastive_core::weights::Pretrained::load(repository)?.of(&["moco-v1", "moco-v2", "moco-v3"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_parameters_are_the_papers() {
        let all = TransformerConfig { frozen_patches: true, sin_cos: true };
        for name in
            ["backbone.pos_embed", "backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"]
        {
            assert!(is_fixed(&all, name), "{name}");
            assert!(!is_fixed(&TransformerConfig { frozen_patches: false, sin_cos: false }, name), "{name}");
        }
        for name in ["backbone.cls_token", "predictor.0.weight", "backbone.blocks.0.norm1.bias"] {
            assert!(!is_fixed(&all, name), "{name}");
        }
    }
}
