//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*` and `head.*`; an exported encoder holds the backbone under torchvision's
//! names, without prefix and without head (the official v1 checkpoints have no head either). A classifier adds
//! `head_supervised.*`, the official code's name, which its LARS leaves out of decay and trust ratio.

use std::collections::{BTreeSet, HashMap};
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

/// A network of the official TensorFlow checkpoints (google-research/simclr) under torchvision's names: ResNets of any
/// width, with selective kernels (under the names of core's ResNet) or without. Convolutions and batch norms are numbered there in the order in which the code makes
/// them, the shortcut's of a block before the others; `head_contrastive` and `head_supervised`, where they are, become
/// `head.*` and `head_supervised.*`. The optimiser's variables are left out.
///
/// # Errors
/// [`Error::Format`] for other networks; as [`Bundle::read`].
pub fn from_tensorflow(bundle: &Bundle, method: &str) -> Result<Named> {
    let names = bundle.variables().keys().map(String::as_str).collect();
    arranged(bundle.path(), &names, &|name| bundle.read(name), method)
}

/// [`from_tensorflow`] of variables that `read` gives.
fn arranged(
    path: &Path,
    names: &BTreeSet<&str>,
    read: &dyn Fn(&str) -> Result<Tensor>,
    method: &str,
) -> Result<Named> {
    let refuse = |reason: String| Error::format(path, reason);
    // Distilled and fine-tuned files may have the averaged network beside the trained one.
    let numbered = |kind: &str, leaf: &str| -> Vec<String> {
        let name = |i: usize| {
            let number = if i == 0 { String::new() } else { format!("_{i}") };
            format!("base_model/{kind}{number}/{leaf}")
        };
        (0..).map(name).take_while(|name| names.contains(name.as_str())).collect()
    };
    let convs = numbered("conv2d", "kernel");
    let norms = numbered("batch_normalization", "gamma");
    if convs.is_empty() {
        return Err(refuse("has no `base_model/conv2d/kernel`: not of google-research/simclr".into()));
    }
    let normed = |places: &[Place]| places.iter().filter(|(_, norm)| norm.is_some()).count();
    let places =
        DEPTHS.iter().flat_map(|(blocks, kinds)| kinds.iter().map(move |&kind| places(blocks, kind)));
    let Some(places) =
        places.into_iter().find(|places| places.len() == convs.len() && normed(places) == norms.len())
    else {
        let reason = format!(
            "{} convolutions and {} batch norms: no ResNet of SimCLR has so many",
            convs.len(),
            norms.len()
        );
        return Err(refuse(reason));
    };
    let (mut backbone, mut used) = (Vec::new(), 0);
    let mut put = |name: String, tensor: Tensor| backbone.push((name, tensor));
    let mut norms = norms.iter();
    for ((conv, norm), from) in places.iter().zip(&convs) {
        let kernel = read(from)?;
        if kernel.rank() != 4 {
            return Err(refuse(format!("`{from}` has shape {:?}", kernel.dims())));
        }
        // [H, W, I, O] to [O, I, H, W].
        put(format!("{conv}.weight"), kernel.permute((3, 2, 0, 1))?.contiguous()?);
        used += 1;
        let Some((norm, from)) = norm.as_ref().and_then(|norm| Some((norm, norms.next()?))) else { continue };
        let at = from.trim_end_matches("gamma");
        for (theirs, ours) in NORM {
            put(format!("{norm}.{ours}"), read(&format!("{at}{theirs}"))?);
        }
        used += NORM.len();
    }
    let mut heads = Vec::new();
    for layer in 0..16 {
        let at = format!("head_contrastive/nl_{layer}");
        if !names.contains(format!("{at}/dense/kernel").as_str()) {
            break;
        }
        heads.push((
            format!("{HEAD}.{}.weight", 3 * layer),
            read(&format!("{at}/dense/kernel"))?.t()?.contiguous()?,
        ));
        for (theirs, ours) in NORM {
            let name = format!("{at}/batch_normalization/{theirs}");
            // The last layer's norm has no shift.
            if names.contains(name.as_str()) {
                heads.push((format!("{HEAD}.{}.{ours}", 3 * layer + 1), read(&name)?));
            }
        }
    }
    let classifier = "head_supervised/linear_layer/dense";
    for (theirs, ours) in [("kernel", "weight"), ("bias", "bias")] {
        let name = format!("{classifier}/{theirs}");
        if names.contains(name.as_str()) {
            let tensor = read(&name)?;
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

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Basic,
    Bottleneck,
    /// A bottleneck with selective kernels, behind a stem of three convolutions.
    Selective,
}

const BASIC: &[Kind] = &[Kind::Basic];
const DEEP: &[Kind] = &[Kind::Bottleneck, Kind::Selective];

/// Blocks of each group, and what they may be.
const DEPTHS: [([usize; 4], &[Kind]); 6] = [
    ([2, 2, 2, 2], BASIC),
    ([3, 4, 6, 3], BASIC),
    ([3, 4, 6, 3], DEEP),
    ([3, 4, 23, 3], DEEP),
    ([3, 8, 36, 3], DEEP),
    ([3, 24, 36, 3], DEEP),
];

/// A convolution and the batch norm behind it, if there is one.
type Place = (String, Option<String>);

/// All places in the order in which the official code makes them.
fn places(blocks: &[usize; 4], kind: Kind) -> Vec<Place> {
    let place = |conv: String, norm: String| (conv, Some(norm));
    let stem: &[(&str, &str)] = match kind {
        Kind::Selective => &[("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")],
        _ => &[("conv1", "bn1")],
    };
    let mut places: Vec<Place> =
        stem.iter().map(|(conv, norm)| place(conv.to_string(), norm.to_string())).collect();
    for (group, count) in (1..).zip(blocks) {
        for block in 0..*count {
            let at = format!("layer{group}.{block}");
            if block == 0 {
                places.push(place(format!("{at}.downsample.0"), format!("{at}.downsample.1")));
            }
            let layers = if kind == Kind::Basic { 2 } else { 3 };
            for i in 1..=layers {
                places.push(place(format!("{at}.conv{i}"), format!("{at}.bn{i}")));
                if kind == Kind::Selective && i == 2 {
                    places.push(place(format!("{at}.sk.squeeze"), format!("{at}.sk.bn")));
                    places.push((format!("{at}.sk.expand"), None));
                }
            }
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

#[cfg(test)]
mod tests;
