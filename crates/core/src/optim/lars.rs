//! The forms of LARS that published code uses.

use serde::{Deserialize, Serialize};

use super::groups::{is_bias, is_norm};

/// Which published LARS. They share a name and differ in what they leave out, in the trust ratio and in where the
/// learning rate enters the momentum.
///
/// With gradient g, parameter p, weight decay λ, learning rate lr, momentum m and trust coefficient η
/// ([`super::LarsConfig::trust_coefficient`], 0.001 in most recipes):
///
/// - **early decay**: `d = g + λp`, then `r = η‖p‖/‖d‖`, and r = 1 where a norm is 0;
/// - **apex**: `r = η‖p‖/(‖g‖ + λ‖p‖ + eps)`, then `d = g + λp`; where a norm is 0 neither r nor the decay is applied.
///   With [`super::LarsConfig::clip`] r becomes `min(r / lr, 1)`;
/// - **rate inside**: `v = m v + lr r d`, `p = p - v`: old steps keep the rate they were made with;
/// - **rate outside**: `v = m v + r d`, `p = p - lr v`, as in [`super::SgdConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LarsVariant {
    /// SimCLR's TensorFlow code (`LARSOptimizer` with `classic_momentum`): early decay, rate **inside**. Decay and trust
    /// skip biases, normalisations and every name with `head_supervised` in it.
    #[serde(rename = "simclr")]
    SimClr,
    /// BYOL's JAX code: early decay, rate outside. Decay and trust skip biases and normalisations.
    #[serde(rename = "byol")]
    Byol,
    /// MoCo v3: early decay, rate outside. Decay and trust only where there is more than one dimension.
    #[serde(rename = "moco-v3")]
    MocoV3,
    /// DINO (ResNet-50): early decay, rate outside. Decay and trust skip tensors of exactly one dimension.
    #[serde(rename = "dino")]
    Dino,
    /// SwAV: apex's `LARC` around SGD (`trust_coefficient = 0.001`, no clipping): apex, rate outside. Nothing is left
    /// out: biases, normalisations and prototypes are adapted and decayed too.
    #[serde(rename = "swav")]
    Swav,
    /// solo-learn: apex, rate outside. Tensors of exactly one dimension skip the trust ratio and with it the decay,
    /// which that code applies in the same branch (its `exclude_bias_n_norm_lars`). Its CIFAR recipes use η = 0.02 and
    /// `clip`. Weight decay can be switched off for more parameters by [`super::ParamGroups::no_decay`].
    #[serde(rename = "solo-learn")]
    SoloLearn,
}

impl LarsVariant {
    /// Whether the variant itself applies weight decay and trust ratio to a parameter. (In all six the two exclusions
    /// coincide; [`super::ParamGroups`] can separate them.)
    pub fn adapts(self, name: &str, shape: &[usize]) -> bool {
        match self {
            Self::SimClr => {
                !(is_bias(name, shape) || is_norm(name, shape) || name.contains("head_supervised"))
            }
            Self::Byol => !(is_bias(name, shape) || is_norm(name, shape)),
            Self::MocoV3 => shape.len() > 1,
            Self::Dino | Self::SoloLearn => shape.len() != 1,
            Self::Swav => true,
        }
    }

    /// Whether the learning rate is multiplied into the momentum buffer.
    pub fn rate_inside(self) -> bool {
        self == Self::SimClr
    }

    /// Whether the trust ratio has apex's form.
    pub fn apex(self) -> bool {
        matches!(self, Self::Swav | Self::SoloLearn)
    }
}
