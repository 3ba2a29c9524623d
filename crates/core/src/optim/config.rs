//! Settings of the optimisers.

use serde::{Deserialize, Serialize};

use super::engine::{Engine, Rule, Trust};
use super::groups::{LrRule, ParamGroups};
use super::{LarsVariant, Optimizer, RmsPropConfig};
use crate::nn::ParamStore;
use crate::{Error, Result};

/// An optimiser and its settings; in a file, the table's `kind` is `"sgd"`, `"lars"`, `"adamw"`, `"adam"` or
/// `"rmsprop"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum OptimizerConfig {
    /// Stochastic gradient descent with momentum.
    Sgd(SgdConfig),
    /// Layer-wise adaptive rate scaling (You et al. 2017).
    Lars(LarsConfig),
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019): `p` is multiplied by `1 - lr λ` before the step.
    AdamW(AdamConfig),
    /// Adam (Kingma & Ba 2015) with weight decay as an l2 penalty: `g + λp` enters the moments.
    Adam(AdamConfig),
    /// RMSProp (Tieleman & Hinton 2012); [`super::RmsPropVariant`] has the formulas.
    RmsProp(RmsPropConfig),
}

/// SGD as in `torch.optim.SGD` with dampening 0: `d = g + λp`, `v = m v + d`, `p = p - lr v`, or with Nesterov's
/// momentum `p = p - lr (d + m v)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SgdConfig {
    /// m, in `[0, 1)`; 0 keeps no buffer. Default 0.9.
    pub momentum: f64,
    /// Nesterov's form; needs `momentum` above 0. Default false.
    pub nesterov: bool,
    /// λ, at least 0. Default 0.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: false, weight_decay: 0.0 }
    }
}

/// LARS; [`LarsVariant`] has the formulas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LarsConfig {
    /// Whose LARS: `"simclr"`, `"byol"`, `"moco-v3"`, `"dino"`, `"swav"` or `"solo-learn"`.
    pub variant: LarsVariant,
    /// m, in `[0, 1)`. Default 0.9.
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// λ, at least 0. Default 0.
    #[serde(default)]
    pub weight_decay: f64,
    /// η, above 0. Default 0.001.
    #[serde(default = "default_trust")]
    pub trust_coefficient: f64,
    /// Added to the denominator of apex's trust ratio (`swav`, `solo-learn`), at least 0. Default 1e-8.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// Caps the effective rate `lr r` at `lr`'s own: r becomes `min(r / lr, 1)`. Only `swav` and `solo-learn` have it.
    /// Default false.
    #[serde(default)]
    pub clip: bool,
}

fn default_momentum() -> f64 {
    0.9
}
fn default_trust() -> f64 {
    0.001
}
fn default_eps() -> f64 {
    1e-8
}

impl LarsConfig {
    /// The defaults of a variant.
    pub fn new(variant: LarsVariant) -> Self {
        Self {
            variant,
            momentum: default_momentum(),
            weight_decay: 0.0,
            trust_coefficient: default_trust(),
            eps: default_eps(),
            clip: false,
        }
    }
}

/// Adam and AdamW as in `torch.optim`, with bias correction and without AMSGrad. Steps are counted per parameter, so a
/// parameter that has no gradient at first is corrected from its own first step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamConfig {
    /// Decay of the first and the second moment, each in `[0, 1)`. Default `[0.9, 0.999]`.
    pub betas: [f64; 2],
    /// Added to the root of the second moment, above 0. Default 1e-8.
    pub eps: f64,
    /// λ, at least 0. Default 0 for both kinds (PyTorch's AdamW has 0.01).
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Refuses a value outside its range; NaN is outside every range.
pub(crate) fn require(ok: bool, at: &str, key: &str, range: &str, got: f64) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::config(format!("{at}.{key}"), format!("must be {range}, got {got}"))) }
}

fn check_common(at: &str, momentum: f64, weight_decay: f64) -> Result<()> {
    require((0.0..1.0).contains(&momentum), at, "momentum", "in [0, 1)", momentum)?;
    check_decay(at, weight_decay)
}

pub(super) fn check_decay(at: &str, weight_decay: f64) -> Result<()> {
    let ok = weight_decay >= 0.0 && weight_decay.is_finite();
    require(ok, at, "weight_decay", "at least 0 and finite", weight_decay)
}

impl OptimizerConfig {
    /// Checks every range. `at` is where these settings stand in the whole configuration (`optim`).
    ///
    /// # Errors
    /// [`Error::Config`] with the dotted key and the allowed range.
    pub fn check(&self, at: &str) -> Result<()> {
        match self {
            Self::Sgd(c) => {
                check_common(at, c.momentum, c.weight_decay)?;
                if c.nesterov && c.momentum == 0.0 {
                    return Err(Error::config(format!("{at}.nesterov"), "needs momentum above 0, got 0"));
                }
                Ok(())
            }
            Self::Lars(c) => {
                check_common(at, c.momentum, c.weight_decay)?;
                let trust = c.trust_coefficient;
                let ok = trust > 0.0 && trust.is_finite();
                require(ok, at, "trust_coefficient", "above 0 and finite", trust)?;
                require(c.eps >= 0.0 && c.eps.is_finite(), at, "eps", "at least 0 and finite", c.eps)?;
                if c.clip && !c.variant.apex() {
                    let reason =
                        format!("must be false for variant {:?}: only swav and solo-learn clip", c.variant);
                    return Err(Error::config(format!("{at}.clip"), reason));
                }
                Ok(())
            }
            Self::AdamW(c) | Self::Adam(c) => {
                for (key, beta) in ["betas[0]", "betas[1]"].into_iter().zip(c.betas) {
                    require((0.0..1.0).contains(&beta), at, key, "in [0, 1)", beta)?;
                }
                require(c.eps > 0.0 && c.eps.is_finite(), at, "eps", "above 0 and finite", c.eps)?;
                check_decay(at, c.weight_decay)
            }
            Self::RmsProp(c) => {
                require((0.0..1.0).contains(&c.decay), at, "decay", "in [0, 1)", c.decay)?;
                require(c.eps > 0.0 && c.eps.is_finite(), at, "eps", "above 0 and finite", c.eps)?;
                check_common(at, c.momentum, c.weight_decay)
            }
        }
    }

    /// λ.
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Sgd(c) => c.weight_decay,
            Self::Lars(c) => c.weight_decay,
            Self::AdamW(c) | Self::Adam(c) => c.weight_decay,
            Self::RmsProp(c) => c.weight_decay,
        }
    }

    /// The optimiser of the store's parameters, with fresh state.
    ///
    /// # Errors
    /// What [`OptimizerConfig::check`] refuses (as `optim.*`), and a learning-rate rule of the groups that is negative
    /// or not finite.
    pub fn build(&self, params: &ParamStore, groups: &ParamGroups) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(self.engine(params, groups)?))
    }

    pub(super) fn engine(&self, params: &ParamStore, groups: &ParamGroups) -> Result<Engine> {
        self.check("optim")?;
        for rule in groups.lr_rules() {
            let (LrRule::Scaled(value) | LrRule::Fixed(value)) = rule;
            require(value >= 0.0 && value.is_finite(), "optim", "groups.lr", "at least 0 and finite", value)?;
        }
        let (rule, decay, variant) = match self {
            Self::Sgd(c) => {
                let rule = Rule::Momentum { momentum: c.momentum, nesterov: c.nesterov, trust: None };
                (rule, c.weight_decay, None)
            }
            Self::Lars(c) => {
                let trust = Trust {
                    coefficient: c.trust_coefficient,
                    apex: c.variant.apex(),
                    eps: c.eps,
                    clip: c.clip,
                    rate_inside: c.variant.rate_inside(),
                };
                let rule = Rule::Momentum { momentum: c.momentum, nesterov: false, trust: Some(trust) };
                (rule, c.weight_decay, Some(c.variant))
            }
            Self::AdamW(c) => {
                (Rule::Adam { betas: c.betas, eps: c.eps, decoupled: true }, c.weight_decay, None)
            }
            Self::Adam(c) => {
                (Rule::Adam { betas: c.betas, eps: c.eps, decoupled: false }, c.weight_decay, None)
            }
            Self::RmsProp(c) => {
                let RmsPropConfig { variant, decay: alpha, momentum, eps, .. } = *c;
                (Rule::RmsProp { alpha, momentum, eps, variant }, c.weight_decay, None)
            }
        };
        Engine::new(rule, decay, variant, params, groups)
    }
}
