//! Parameter groups: settings by predicate on name and shape.

use std::fmt;

/// How the learning rate of a parameter follows the step's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LrRule {
    /// The step's rate times a factor.
    Scaled(f64),
    /// A constant, whatever the schedule says.
    Fixed(f64),
}

impl LrRule {
    pub(super) fn apply(self, lr: f64) -> f64 {
        match self {
            Self::Scaled(factor) => factor * lr,
            Self::Fixed(fixed) => fixed,
        }
    }
}

/// What holds for one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Settings {
    pub(super) weight_decay: bool,
    pub(super) trust_ratio: bool,
    pub(super) lr: LrRule,
    pub(super) frozen: bool,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    NoDecay,
    NoTrust,
    Lr(LrRule),
    Frozen,
}

type Predicate = Box<dyn Fn(&str, &[usize]) -> bool + Send + Sync>;

/// Rules that change the settings of the parameters they match.
///
/// A parameter begins with weight decay on, trust ratio on (where the optimiser has one), learning-rate factor 1 and
/// not frozen. Every rule is a predicate on the parameter's full name and shape; all matching rules apply, in the
/// order in which they were added, and exclusions add up with those that a [`super::LarsVariant`] brings itself.
///
/// ```
/// use contrastive_core::optim::{ParamGroups, is_bias, is_norm};
/// let groups = ParamGroups::new()
///     .no_decay(|name, shape| is_bias(name, shape) || is_norm(name, shape))
///     .frozen(|name, _| name.starts_with("patch_embed."));
/// # let _ = groups;
/// ```
#[derive(Default)]
pub struct ParamGroups {
    rules: Vec<(Predicate, Change)>,
}

impl fmt::Debug for ParamGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rules.iter().map(|(_, change)| change)).finish()
    }
}

impl ParamGroups {
    /// No rules: all parameters alike.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, matches: impl Fn(&str, &[usize]) -> bool + Send + Sync + 'static, c: Change) -> Self {
        self.rules.push((Box::new(matches), c));
        self
    }

    /// No weight decay for the parameters that match.
    pub fn no_decay(self, matches: impl Fn(&str, &[usize]) -> bool + Send + Sync + 'static) -> Self {
        self.with(matches, Change::NoDecay)
    }

    /// No trust ratio (LARS) for the parameters that match; they take plain momentum steps.
    pub fn no_trust_ratio(self, matches: impl Fn(&str, &[usize]) -> bool + Send + Sync + 'static) -> Self {
        self.with(matches, Change::NoTrust)
    }

    /// The step's learning rate times `factor` for the parameters that match.
    pub fn lr_multiplier(
        self,
        factor: f64,
        matches: impl Fn(&str, &[usize]) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(matches, Change::Lr(LrRule::Scaled(factor)))
    }

    /// A constant learning rate, outside the schedule, for the parameters that match (SimSiam's predictor).
    pub fn fixed_lr(self, lr: f64, matches: impl Fn(&str, &[usize]) -> bool + Send + Sync + 'static) -> Self {
        self.with(matches, Change::Lr(LrRule::Fixed(lr)))
    }

    /// The parameters that match never change and have no state (MoCo v3's random patch projection).
    pub fn frozen(self, matches: impl Fn(&str, &[usize]) -> bool + Send + Sync + 'static) -> Self {
        self.with(matches, Change::Frozen)
    }

    pub(super) fn settings(&self, name: &str, shape: &[usize]) -> Settings {
        let mut settings =
            Settings { weight_decay: true, trust_ratio: true, lr: LrRule::Scaled(1.0), frozen: false };
        for (_, change) in self.rules.iter().filter(|(matches, _)| matches(name, shape)) {
            match change {
                Change::NoDecay => settings.weight_decay = false,
                Change::NoTrust => settings.trust_ratio = false,
                Change::Lr(rule) => settings.lr = *rule,
                Change::Frozen => settings.frozen = true,
            }
        }
        settings
    }

    pub(super) fn lr_rules(&self) -> impl Iterator<Item = LrRule> {
        self.rules.iter().filter_map(|(_, change)| match change {
            Change::Lr(rule) => Some(*rule),
            _ => None,
        })
    }
}

/// The last component of the name is `bias`.
pub fn is_bias(name: &str, _shape: &[usize]) -> bool {
    name.rsplit('.').next() == Some("bias")
}

/// Belongs to a batch or layer normalisation. True when
/// - a component of the name other than the last is `bn` or `norm`, alone or followed by something that is not a
///   letter (`bn1.weight`, `blocks.3.norm2.bias`, `norm_pre.weight`), or
/// - the tensor belongs to the second module of a ResNet shortcut (`downsample.1.weight`), or
/// - it is a one-dimensional tensor called `weight`: the scale of a normalisation without a name of its own
///   (`projector.1.weight`). The shift beside it is caught by [`is_bias`].
pub fn is_norm(name: &str, shape: &[usize]) -> bool {
    let parts: Vec<&str> = name.split('.').collect();
    let Some((leaf, modules)) = parts.split_last() else { return false };
    let named = modules.iter().any(|module| {
        ["bn", "norm"].iter().any(|stem| {
            module.strip_prefix(stem).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()))
        })
    });
    named || modules.ends_with(&["downsample", "1"]) || (*leaf == "weight" && shape.len() == 1)
}

/// Has two dimensions or more: convolution and linear weights, but no biases and no normalisation.
pub fn ndim_above_one(_name: &str, shape: &[usize]) -> bool {
    shape.len() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predicates_know_public_names() {
        for (name, shape) in [
            ("bn1.weight", vec![64]),
            ("layer1.0.bn2.bias", vec![64]),
            ("layer2.0.downsample.1.bias", vec![128]),
            ("blocks.0.norm1.weight", vec![192]),
            ("norm.bias", vec![192]),
            ("projector.1.weight", vec![512]),
        ] {
            assert!(is_norm(name, &shape), "{name}");
        }
        for (name, shape) in [
            ("layer2.0.downsample.0.weight", vec![128, 64, 1, 1]),
            ("fc.weight", vec![10, 512]),
            ("fc.bias", vec![10]),
            ("normaliser.weight", vec![3, 3]),
            ("cls_token", vec![1, 1, 192]),
        ] {
            assert!(!is_norm(name, &shape), "{name}");
        }
        assert!(is_bias("fc.bias", &[10]) && is_bias("bias", &[10]) && !is_bias("fc.bias_scale", &[10]));
        assert!(ndim_above_one("w", &[2, 2]) && !ndim_above_one("w", &[2]) && !ndim_above_one("w", &[]));
    }

    #[test]
    fn rules_add_up_in_order() {
        let groups = ParamGroups::new()
            .no_decay(is_bias)
            .no_trust_ratio(|_, shape| shape.len() == 1)
            .lr_multiplier(10.0, |name, _| name.starts_with("head."))
            .fixed_lr(0.5, |name, _| name == "head.bias")
            .frozen(|name, _| name == "stem.weight");
        let bias = groups.settings("head.bias", &[3]);
        assert!(!bias.weight_decay && !bias.trust_ratio && !bias.frozen);
        assert_eq!(bias.lr.apply(2.0), 0.5);
        let weight = groups.settings("head.weight", &[3, 3]);
        assert!(weight.weight_decay && weight.trust_ratio);
        assert_eq!(weight.lr.apply(2.0), 20.0);
        assert!(groups.settings("stem.weight", &[3, 3]).frozen);
    }
}
