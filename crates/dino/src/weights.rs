//! Names in checkpoints.
//!
//! A training checkpoint holds the student as `backbone.*` and `head.*`, the teacher as `momentum.backbone.*` and
//! `momentum.head.*`, and `centre`; an exported encoder holds the *teacher's* backbone under timm's or torchvision's
//! names, without prefix and without head, as the official backbone files do. An official full checkpoint
//! (`student`, `teacher`, `dino_loss`) has both networks as `backbone.*` and `head.*`; [`PUBLISHED`] says so to the
//! converter.

use contrastive_core::augment::Interpolation;
use contrastive_core::weights::published::{Branch, Published, imagenet_eval};

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";
/// The head's last layer, whose parameters are [held still](crate::DinoConfig::freeze_last_layer) at first.
pub const LAST_LAYER: &str = "head.last_layer.";
/// The centre of the teacher's outputs in a checkpoint.
pub const CENTRE: &str = "centre";

/// The files of facebookresearch/dino: whole checkpoints, backbones alone (the teacher's) and linear classifiers.
pub const PUBLISHED: &[Published] = &[
    Published {
        method: "dino",
        file: "full checkpoint",
        repository: "facebookresearch/dino",
        has: &["backbone.", "head.mlp.", "head.last_layer."],
        lacks: &[],
        rows: None,
        branches: &[
            Branch {
                name: "teacher",
                tables: &["teacher"],
                prefix: "backbone.",
                parts: &[],
                beside: &[("head.", "head.")],
                backbone: true,
            },
            Branch {
                name: "student",
                tables: &["student"],
                prefix: "backbone.",
                parts: &[],
                beside: &[("head.", "head.")],
                backbone: true,
            },
        ],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "Apache-2.0",
        eval: || imagenet_eval(Interpolation::Bicubic),
    },
    Published {
        method: "dino",
        file: "backbone of a vision transformer",
        repository: "facebookresearch/dino",
        has: &["cls_token", "pos_embed", "patch_embed.proj.", "blocks.0."],
        lacks: &["head.", "fc_norm."],
        rows: None,
        branches: &[Branch {
            name: "teacher",
            tables: &[""],
            prefix: "",
            parts: &[],
            beside: &[],
            backbone: true,
        }],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "Apache-2.0",
        eval: || imagenet_eval(Interpolation::Bicubic),
    },
    Published {
        method: "dino",
        file: "backbone of a ResNet",
        repository: "facebookresearch/dino",
        has: &["conv1.weight", "bn1.", "layer4.0."],
        lacks: &["fc.", "projection_head.", "prototypes."],
        rows: None,
        branches: &[Branch {
            name: "teacher",
            tables: &[""],
            prefix: "",
            parts: &[],
            beside: &[],
            backbone: true,
        }],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "Apache-2.0",
        eval: || imagenet_eval(Interpolation::Bicubic),
    },
    Published {
        method: "dino",
        file: "linear classifier",
        repository: "facebookresearch/dino",
        has: &["linear.weight", "linear.bias"],
        lacks: &["conv1.weight", "cls_token"],
        rows: None,
        branches: &[Branch {
            name: "classifier",
            tables: &["state_dict"],
            prefix: "",
            parts: &[],
            beside: &[("linear.", "linear.")],
            backbone: false,
        }],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "Apache-2.0",
        eval: || imagenet_eval(Interpolation::Bicubic),
    },
];

/// A backbone of DINO from a model repository of the Hub (`owner/name`), or from its cache: with its preprocessing,
/// branch, licence and commit. Weights without a manifest (timm's, those of `transformers`) say nothing of their method and
/// are taken.
///
/// # Errors
/// As [`contrastive_core::weights::Pretrained::load`]; weights of another method.
#[cfg(feature = "hub")]
pub fn load(repository: &str) -> contrastive_core::Result<contrastive_core::weights::Pretrained> {
    contrastive_core::weights::Pretrained::load(repository)?.of(&["dino"])
}
