//! Layouts of the checkpoints that authors published, and telling them apart by their names.

use std::collections::BTreeSet;

use super::torch::{Checkpoint, Table};
use crate::augment::{EvalTransform, Interpolation};

/// How a repository's checkpoints hold their networks. Method crates have one for each kind of file, in a list called
/// `PUBLISHED`.
///
/// Names are meant without `module.`, which is what `DataParallel` puts before all of them.
#[derive(Debug)]
pub struct Published {
    /// The method's name on command lines (`moco-v2`).
    pub method: &'static str,
    /// What kind of file it is, for people (`pretraining checkpoint`).
    pub file: &'static str,
    /// Whose it is (`facebookresearch/moco`).
    pub repository: &'static str,
    /// Beginnings of names, each of which some tensor of the first branch's dictionary has.
    pub has: &'static [&'static str],
    /// Beginnings of names that none has.
    pub lacks: &'static [&'static str],
    /// A tensor and its first dimension, where names alone are those of other files too.
    pub rows: Option<(&'static str, usize)>,
    /// The networks; the first is the one that is usually wanted.
    pub branches: &'static [Branch],
    /// Attention heads of transformers where they are not the usual ones for the width: (width, heads).
    pub attention_heads: &'static [(usize, usize)],
    /// What it was trained on.
    pub data: &'static str,
    /// The licence of the weights.
    pub licence: &'static str,
    /// What evaluation does to an image.
    pub eval: fn() -> EvalTransform,
}

/// One network of a checkpoint.
#[derive(Debug)]
pub struct Branch {
    /// Its name on command lines (`online`, `target`, `teacher`, `student`).
    pub name: &'static str,
    /// Where it may lie: keys joined with `/`, as in [`Checkpoint::tables`].
    pub tables: &'static [&'static str],
    /// What stands before the names of its tensors.
    pub prefix: &'static str,
    /// Parts behind the prefix that are no backbone, and their place in the method's own parameter store. An empty place
    /// leaves the part out.
    pub parts: &'static [(&'static str, &'static str)],
    /// Parts elsewhere in the dictionary, with their place.
    pub beside: &'static [(&'static str, &'static str)],
    /// Whether there is a backbone; files of linear classifiers have none.
    pub backbone: bool,
}

impl Branch {
    /// The dictionary of the checkpoint that this branch lies in.
    pub fn table<'a>(&self, checkpoint: &'a Checkpoint) -> Option<(&'static str, &'a Table)> {
        self.tables.iter().find_map(|name| Some((*name, checkpoint.tables().get(*name)?)))
    }
}

/// ImageNet's usual preprocessing for evaluation: shorter side to 256, central 224x224.
pub fn imagenet_eval(interpolation: Interpolation) -> EvalTransform {
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    EvalTransform { interpolation, ..EvalTransform::resize_crop(256, 224, mean, std) }
}

/// The names of a dictionary without the `module.` that all of them begin with.
pub(super) fn unwrapped(table: &Table) -> impl Iterator<Item = (&str, &str)> {
    let wrapped = table.keys().all(|name| name.starts_with("module."));
    table.keys().map(move |name| {
        let bare = if wrapped { name.strip_prefix("module.").unwrap_or(name) } else { name };
        (bare, name.as_str())
    })
}

impl Published {
    /// Whether a checkpoint has this layout, by the names (and, where they are not enough, a shape) in it.
    pub fn fits(&self, checkpoint: &Checkpoint) -> bool {
        let Some((_, table)) = self.branches.first().and_then(|branch| branch.table(checkpoint)) else {
            return false;
        };
        let names: BTreeSet<&str> = unwrapped(table).map(|(bare, _)| bare).collect();
        let begins = |start: &str| names.range(start..).next().is_some_and(|name| name.starts_with(start));
        let rows = self.rows.is_none_or(|(name, rows)| {
            let full = unwrapped(table).find(|(bare, _)| *bare == name);
            full.and_then(|(_, full)| table.get(full)?.shape().first().copied()) == Some(rows)
        });
        self.has.iter().all(|start| begins(start)) && !self.lacks.iter().any(|start| begins(start)) && rows
    }

    /// `moco-v2 (facebookresearch/moco, pretraining checkpoint)`.
    pub fn describe(&self) -> String {
        format!("{} ({}, {})", self.method, self.repository, self.file)
    }
}

/// Those of `layouts` that a checkpoint has.
pub fn identify<'a>(checkpoint: &Checkpoint, layouts: &[&'a Published]) -> Vec<&'a Published> {
    layouts.iter().copied().filter(|layout| layout.fits(checkpoint)).collect()
}

/// Networks without a method: supervised ones and classifiers over frozen backbones, under torchvision's or timm's
/// names.
pub const PLAIN: &[Published] = &[
    Published {
        method: "torchvision",
        file: "ResNet with a classifier, or without",
        repository: "pytorch/vision",
        has: &["conv1.weight", "bn1.", "layer1.0.", "layer4.0."],
        lacks: &["projection_head.", "prototypes"],
        rows: None,
        branches: &[Branch {
            name: "online",
            tables: &["", "state_dict", "model"],
            prefix: "",
            parts: &[("fc.", "fc.")],
            beside: &[],
            backbone: true,
        }],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "unspecified",
        eval: || imagenet_eval(Interpolation::Bilinear),
    },
    Published {
        method: "timm",
        file: "vision transformer with a classifier, or without",
        repository: "huggingface/pytorch-image-models",
        has: &["cls_token", "pos_embed", "patch_embed.proj.", "blocks.0."],
        lacks: &[],
        rows: None,
        branches: &[Branch {
            name: "online",
            tables: &["", "state_dict", "model"],
            prefix: "",
            parts: &[("head.", "head.")],
            beside: &[],
            backbone: true,
        }],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "unspecified",
        eval: || imagenet_eval(Interpolation::Bicubic),
    },
    Published {
        method: "vissl",
        file: "checkpoint of a ResNet",
        repository: "facebookresearch/vissl",
        has: &["_feature_blocks.conv1.weight"],
        lacks: &[],
        rows: None,
        branches: &[Branch {
            name: "online",
            tables: &["classy_state_dict/base_model/model/trunk", "model_state_dict"],
            prefix: "_feature_blocks.",
            parts: &[],
            beside: &[],
            backbone: true,
        }],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "unspecified",
        eval: || imagenet_eval(Interpolation::Bilinear),
    },
    Published {
        method: "openmmlab",
        file: "checkpoint of a ResNet",
        repository: "open-mmlab/mmpretrain",
        has: &["backbone.conv1.weight", "backbone.layer4.0."],
        lacks: &["head.mlp.", "head.last_layer."],
        rows: None,
        branches: &[Branch {
            name: "online",
            tables: &["state_dict"],
            prefix: "backbone.",
            parts: &[],
            beside: &[],
            backbone: true,
        }],
        attention_heads: &[],
        data: "imagenet-1k",
        licence: "unspecified",
        eval: || imagenet_eval(Interpolation::Bilinear),
    },
];
