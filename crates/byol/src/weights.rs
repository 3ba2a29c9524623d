//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*`, `projector.*` and `predictor.*` of the online network, and the target
//! network's `backbone.*` and `projector.*` behind `momentum.`; an exported encoder holds the online backbone under
//! torchvision's names, without prefix and without heads.
//!
//! The official checkpoints are pickled dictionaries of Haiku's (`experiment_state`: `online_params`, `online_state`), which
//! [`from_haiku`] converts:
//!
//! | Haiku | here |
//! | --- | --- |
//! | `initial_conv`, `initial_batchnorm` | `conv1`, `bn1` |
//! | `block_group_{g}/~/block_{b}/~/conv_{j}`, `batchnorm_{j}` | `layer{g+1}.{b}.conv{j+1}`, `bn{j+1}` |
//! | `shortcut_conv`, `shortcut_batchnorm` | `downsample.0`, `downsample.1` |
//! | `projector/linear`, `batch_norm`, `linear_1` | `projector.0`, `projector.1`, `projector.3` |
//! | `predictor/linear`, `batch_norm`, `linear_1` | `predictor.0`, `predictor.1`, `predictor.3` |
//! | `w` `[H, W, I, O]` or `[I, O]`; `scale`, `offset` `[1, 1, 1, C]` | `weight` `[O, I, H, W]` or `[O, I]`; `weight`, `bias` `[C]` |
//! | `mean_ema`, `var_ema`: `average` | `running_mean`, `running_var` |

use std::collections::BTreeMap;

use candle_core::Tensor;
use contrastive_core::augment::Interpolation;
use contrastive_core::weights::published::imagenet_eval;
use contrastive_core::weights::torch::{Checkpoint, Stored};
use contrastive_core::weights::{Hints, Named};
use contrastive_core::{Error, Result};

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the projector in the parameter store.
pub const PROJECTOR: &str = "projector";
/// Prefix of the predictor in the parameter store.
pub const PREDICTOR: &str = "predictor";

/// The networks of a checkpoint: the online one, which is usually wanted, and its moving average.
const BRANCHES: [&str; 2] = ["online", "target"];

/// A network of the official checkpoints (deepmind-research, `pretrain_res50x1.pkl`) under torchvision's names, projector
/// and predictor under those of this crate's parameter store. The classifier that was trained beside it is left out.
///
/// # Errors
/// [`Error::Config`] for another branch than `online` and `target`; [`Error::Format`] for a file without these names; as
/// [`Checkpoint::read`].
pub fn from_haiku(checkpoint: &mut Checkpoint, branch: Option<&str>) -> Result<Named> {
    let branch = branch.unwrap_or(BRANCHES[0]);
    let Some(branch) = BRANCHES.into_iter().find(|known| *known == branch) else {
        let reason = format!("BYOL's checkpoints have no `{branch}`; known: {}", BRANCHES.join(", "));
        return Err(Error::config("branch", reason));
    };
    let refuse = |checkpoint: &Checkpoint, reason: String| Err(Error::format(checkpoint.path(), reason));
    let all = modules(checkpoint, branch);
    let Some(torso) = all.keys().find_map(|(module, _)| module.strip_suffix("initial_conv")) else {
        let reason =
            format!("has no `{branch}_params` with an `initial_conv`: not of deepmind-research's BYOL");
        return refuse(checkpoint, reason);
    };
    let torso = torso.to_string();
    let (mut backbone, mut heads) = (Vec::new(), Vec::new());
    for ((module, leaf), stored) in &all {
        if let Some(name) = module.strip_prefix(&torso).and_then(|module| placed(module, leaf)) {
            backbone.push((name, oriented(checkpoint.read(stored)?, leaf)?));
        } else if let Some(name) = head(module, leaf) {
            heads.push((name, oriented(checkpoint.read(stored)?, leaf)?));
        }
    }
    Ok(Named {
        method: "byol".to_string(),
        branch: branch.to_string(),
        left_out: all.len() - backbone.len() - heads.len(),
        backbone,
        heads,
        hints: Hints { same_padding: true, same_convolutions: true, ..Hints::default() },
        eval: imagenet_eval(Interpolation::Bicubic),
        data: "imagenet-1k".to_string(),
        licence: "Apache-2.0".to_string(),
        repository: "deepmind/deepmind-research".to_string(),
    })
}

/// The tensors of a branch's parameters and state by module and leaf. Haiku's `~`, which stands for what a module makes
/// when it is made itself, is left out of the modules' names.
fn modules(checkpoint: &Checkpoint, branch: &str) -> BTreeMap<(String, String), Stored> {
    let mut all = BTreeMap::new();
    let roots = [format!("{branch}_params/"), format!("{branch}_state/")];
    for (place, table) in checkpoint.tables() {
        let place = place.strip_prefix("experiment_state/").unwrap_or(place);
        let Some(module) = roots.iter().find_map(|root| place.strip_prefix(root)) else { continue };
        let module = module.split('/').filter(|part| *part != "~").collect::<Vec<&str>>().join("/");
        for (leaf, stored) in table {
            all.insert((module.clone(), leaf.clone()), stored.clone());
        }
    }
    all
}

/// The name of a leaf of the residual network.
fn placed(module: &str, leaf: &str) -> Option<String> {
    let (module, leaf) = renamed(module, leaf)?;
    let place = match module.split('/').collect::<Vec<&str>>().as_slice() {
        ["initial_conv"] => "conv1".to_string(),
        ["initial_batchnorm"] => "bn1".to_string(),
        [group, block, layer] => {
            let number = |part: &str, kind: &str| part.strip_prefix(kind)?.parse::<usize>().ok();
            let at = format!("layer{}.{}", number(group, "block_group_")? + 1, number(block, "block_")?);
            match *layer {
                "shortcut_conv" => format!("{at}.downsample.0"),
                "shortcut_batchnorm" => format!("{at}.downsample.1"),
                layer => match (number(layer, "conv_"), number(layer, "batchnorm_")) {
                    (Some(i), _) => format!("{at}.conv{}", i + 1),
                    (_, Some(i)) => format!("{at}.bn{}", i + 1),
                    _ => return None,
                },
            }
        }
        _ => return None,
    };
    Some(format!("{place}.{leaf}"))
}

/// The name of a leaf of projector or predictor.
fn head(module: &str, leaf: &str) -> Option<String> {
    let (module, leaf) = renamed(module, leaf)?;
    let (head, layer) = module.rsplit_once('/')?;
    let head =
        [PROJECTOR, PREDICTOR].into_iter().find(|known| head.split('/').next_back() == Some(*known))?;
    let place = match layer {
        "linear" => 0,
        "batch_norm" => 1,
        "linear_1" => 3,
        _ => return None,
    };
    Some(format!("{head}.{place}.{leaf}"))
}

/// Module and leaf with our name for the leaf; the averages of a batch norm belong to the norm itself. Counters and what
/// the averages are made of are none.
fn renamed<'a>(module: &'a str, leaf: &str) -> Option<(&'a str, &'static str)> {
    Some(match leaf {
        "w" | "scale" => (module, "weight"),
        "b" | "offset" => (module, "bias"),
        "average" => match module.rsplit_once('/')? {
            (norm, "mean_ema") => (norm, "running_mean"),
            (norm, "var_ema") => (norm, "running_var"),
            _ => return None,
        },
        _ => return None,
    })
}

/// A kernel `[H, W, I, O]` as `[O, I, H, W]`, a matrix `[I, O]` as `[O, I]`, a batch norm's `[1, 1, 1, C]` and `[1, C]` as
/// `[C]`.
fn oriented(tensor: Tensor, leaf: &str) -> Result<Tensor> {
    Ok(match (leaf, tensor.rank()) {
        ("w", 4) => tensor.permute((3, 2, 0, 1))?.contiguous()?,
        ("w", 2) => tensor.t()?.contiguous()?,
        _ => tensor.flatten_all()?,
    })
}

/// A backbone of BYOL from a model repository of the Hub (`owner/name`), or from its cache: with its preprocessing,
/// branch, licence and commit. Weights without a manifest (timm's, those of `transformers`) say nothing of their method and
/// are taken.
///
/// # Errors
/// As [`contrastive_core::weights::Pretrained::load`]; weights of another method.
#[cfg(feature = "hub")]
pub fn load(repository: &str) -> contrastive_core::Result<contrastive_core::weights::Pretrained> {
    contrastive_core::weights::Pretrained::load(repository)?.of(&["byol"])
}

#[cfg(test)]
mod tests;
