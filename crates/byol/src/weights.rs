//! Names in checkpoints.
//!
//! A training checkpoint holds `backbone.*`, `projector.*` and `predictor.*` of the online network, and the target
//! network's `backbone.*` and `projector.*` behind `momentum.`; an exported encoder holds the online backbone under
//! torchvision's names, without prefix and without heads.
//!
//! The official checkpoints are pickled dictionaries of Haiku's (`experiment_state`: `online_params`, `online_state`):
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

pub use contrastive_core::nn::BACKBONE;
/// Prefix of the projector in the parameter store.
pub const PROJECTOR: &str = "projector";
/// Prefix of the predictor in the parameter store.
pub const PREDICTOR: &str = "predictor";

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
