//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*` and `head.*`; an exported encoder holds the backbone under torchvision's
//! names, without prefix and without head (the official v1 checkpoints have no head either). A classifier adds
//! `head_supervised.*`, the official code's name, which its LARS leaves out of decay and trust ratio.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;
use contrastive_core::augment::{EvalTransform, Interpolation};
use contrastive_core::weights::tensorflow::Bundle;
use contrastive_core::weights::{Hints, Named};
use contrastive_core::{Error, Result, weights};

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the head in the parameter store.
pub const HEAD: &str = "head";
/// Prefix of a classifier's logits in the parameter store.
pub const LOGITS: &str = "head_supervised";

/// The networks in a file under the names of a parameter store: of a training checkpoint the model, of an exported
/// encoder the backbone, of other files all tensors as they are.
///
/// # Errors
/// A file that is no whole safetensors file.
pub fn read(path: &Path) -> Result<HashMap<String, Tensor>> {
    let (tensors, _) = weights::load(path)?;
    let strip = |(name, t): (&String, &Tensor)| Some((name.strip_prefix("model/")?.to_string(), t.clone()));
    let model: HashMap<String, Tensor> = tensors.iter().filter_map(strip).collect();
    if !model.is_empty() {
        return Ok(model);
    }
    let prefixed = |name: &String| name.split_once('.').is_some_and(|(first, _)| first == BACKBONE);
    if tensors.keys().any(prefixed) {
        return Ok(tensors);
    }
    Ok(tensors.into_iter().map(|(name, t)| (format!("{BACKBONE}.{name}"), t)).collect())
}

/// A network of the official TensorFlow checkpoints (google-research/simclr) under torchvision's names: ResNets without
/// selective kernels, of any width. Convolutions and batch norms are numbered there in the order in which the code makes
/// them, the shortcut's of a block before the others; `head_contrastive` and `head_supervised`, where they are, become
/// `head.*` and `head_supervised.*`. The optimiser's variables are left out.
///
/// # Errors
/// [`Error::Format`] for other networks; as [`Bundle::read`].
pub fn from_tensorflow(bundle: &Bundle, method: &str) -> Result<Named> {
    let refuse = |reason: String| Error::format(bundle.path(), reason);
    // Distilled and fine-tuned files may have the averaged network beside the trained one.
    let names = bundle.variables();
    let numbered = |kind: &str, leaf: &str| -> Vec<String> {
        let name = |i: usize| {
            let number = if i == 0 { String::new() } else { format!("_{i}") };
            format!("base_model/{kind}{number}/{leaf}")
        };
        (0..).map(name).take_while(|name| names.contains_key(name)).collect()
    };
    let convs = numbered("conv2d", "kernel");
    let norms = numbered("batch_normalization", "gamma");
    if convs.is_empty() {
        return Err(refuse("has no `base_model/conv2d/kernel`: not of google-research/simclr".into()));
    }
    let places = DEPTHS.iter().map(|(blocks, per_block)| places(blocks, *per_block));
    let Some(places) =
        places.into_iter().find(|places| places.len() == convs.len() && convs.len() == norms.len())
    else {
        let reason = format!(
            "{} convolutions and {} batch norms: no ResNet without selective kernels has so many",
            convs.len(),
            norms.len()
        );
        return Err(refuse(reason));
    };
    let (mut backbone, mut used) = (Vec::new(), 0);
    let mut put = |name: String, tensor: Tensor| backbone.push((name, tensor));
    for ((conv, norm), from) in places.iter().zip(convs.iter().zip(&norms)) {
        let kernel = bundle.read(from.0)?;
        if kernel.rank() != 4 {
            return Err(refuse(format!("`{}` has shape {:?}", from.0, kernel.dims())));
        }
        // [H, W, I, O] to [O, I, H, W].
        put(format!("{conv}.weight"), kernel.permute((3, 2, 0, 1))?.contiguous()?);
        let at = from.1.trim_end_matches("gamma");
        for (theirs, ours) in NORM {
            put(format!("{norm}.{ours}"), bundle.read(&format!("{at}{theirs}"))?);
        }
        used += 1 + NORM.len();
    }
    let mut heads = Vec::new();
    for layer in 0..16 {
        let at = format!("head_contrastive/nl_{layer}");
        if !names.contains_key(&format!("{at}/dense/kernel")) {
            break;
        }
        heads.push((
            format!("{HEAD}.{}.weight", 3 * layer),
            bundle.read(&format!("{at}/dense/kernel"))?.t()?.contiguous()?,
        ));
        for (theirs, ours) in NORM {
            let name = format!("{at}/batch_normalization/{theirs}");
            // The last layer's norm has no shift.
            if names.contains_key(&name) {
                heads.push((format!("{HEAD}.{}.{ours}", 3 * layer + 1), bundle.read(&name)?));
            }
        }
    }
    let classifier = "head_supervised/linear_layer/dense";
    for (theirs, ours) in [("kernel", "weight"), ("bias", "bias")] {
        let name = format!("{classifier}/{theirs}");
        if names.contains_key(&name) {
            let tensor = bundle.read(&name)?;
            let tensor = if ours == "weight" { tensor.t()?.contiguous()? } else { tensor };
            heads.push((format!("{LOGITS}.{ours}"), tensor));
        }
    }
    Ok(Named {
        method: method.to_string(),
        branch: "online".to_string(),
        left_out: names.len() - used - heads.len(),
        backbone,
        heads,
        hints: Hints { same_padding: true, ..Hints::default() },
        // Pixels in [0, 1]; the central part, by the bicubic filter.
        eval: EvalTransform {
            interpolation: Interpolation::Bicubic,
            ..EvalTransform::resize_crop(256, 224, [0.0; 3], [1.0; 3])
        },
        data: "imagenet-1k".to_string(),
        licence: "Apache-2.0".to_string(),
        repository: "google-research/simclr".to_string(),
    })
}

/// TensorFlow's and our names of a batch norm's tensors.
const NORM: [(&str, &str); 4] = [
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
];

/// Blocks of each group, and convolutions of a block.
const DEPTHS: [([usize; 4], usize); 6] = [
    ([2, 2, 2, 2], 2),
    ([3, 4, 6, 3], 2),
    ([3, 4, 6, 3], 3),
    ([3, 4, 23, 3], 3),
    ([3, 8, 36, 3], 3),
    ([3, 24, 36, 3], 3),
];

/// The convolution and the batch norm of each place, in the order in which the official code makes them.
fn places(blocks: &[usize; 4], per_block: usize) -> Vec<(String, String)> {
    let mut places = vec![("conv1".to_string(), "bn1".to_string())];
    for (group, count) in (1..).zip(blocks) {
        for block in 0..*count {
            let at = format!("layer{group}.{block}");
            if block == 0 {
                places.push((format!("{at}.downsample.0"), format!("{at}.downsample.1")));
            }
            places.extend((1..=per_block).map(|i| (format!("{at}.conv{i}"), format!("{at}.bn{i}"))));
        }
    }
    places
}

/// A backbone of SimCLR from a model repository of the Hub (`owner/name`), or from its cache: with its preprocessing,
/// branch, licence and commit. Weights without a manifest (timm's, those of `transformers`) say nothing of their method and
/// are taken.
///
/// # Errors
/// As [`contrastive_core::weights::Pretrained::load`]; weights of another method.
#[cfg(feature = "hub")]
pub fn load(repository: &str) -> contrastive_core::Result<contrastive_core::weights::Pretrained> {
    contrastive_core::weights::Pretrained::load(repository)?.of(&["simclr", "simclr-v2"])
}
