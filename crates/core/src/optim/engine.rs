//! What all optimisers share: slots of parameters and their moments, state by name.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};

use super::config::check_decay;
use super::groups::{ParamGroups, Settings};
use super::rmsprop::{self, RmsPropUpdate};
use super::{Gradients, LarsVariant, Optimizer, RmsPropVariant, fused, plain};
use crate::nn::ParamStore;
use crate::{Error, Result};

/// The trust ratio of LARS; [`LarsVariant`] has the formulas.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trust {
    pub(super) coefficient: f64,
    pub(super) apex: bool,
    pub(super) eps: f64,
    pub(super) clip: bool,
    pub(super) rate_inside: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// SGD and LARS.
    Momentum {
        momentum: f64,
        nesterov: bool,
        trust: Option<Trust>,
    },
    /// Adam, and AdamW where `decoupled`.
    Adam {
        betas: [f64; 2],
        eps: f64,
        decoupled: bool,
    },
    RmsProp {
        alpha: f64,
        momentum: f64,
        eps: f64,
        variant: RmsPropVariant,
    },
}

impl Rule {
    fn moments(self) -> &'static [&'static str] {
        match self {
            Self::Momentum { momentum: 0.0, .. } => &[],
            Self::Momentum { .. } => &["momentum"],
            Self::Adam { .. } => &["exp_avg", "exp_avg_sq"],
            Self::RmsProp { momentum: 0.0, .. } => &["square_avg"],
            Self::RmsProp { .. } => &["square_avg", "momentum"],
        }
    }

    /// What a moment begins with.
    fn start(self, moment: &str) -> f32 {
        match self {
            Self::RmsProp { variant: RmsPropVariant::TensorFlow, .. } if moment == "square_avg" => 1.0,
            _ => 0.0,
        }
    }
}

/// One momentum step of one parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct MomentumUpdate {
    pub(super) lr: f64,
    pub(super) decay: f64,
    pub(super) momentum: f64,
    pub(super) nesterov: bool,
    pub(super) rate_inside: bool,
    pub(super) trust: Option<Trust>,
}

/// One Adam step of one parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdamUpdate {
    pub(super) lr: f64,
    pub(super) decay: f64,
    pub(super) betas: [f64; 2],
    pub(super) eps: f64,
    pub(super) decoupled: bool,
    /// From 1.
    pub(super) step: u64,
}

impl AdamUpdate {
    /// What the parameter is multiplied by before the step, and how much of it is added to the gradient.
    pub(super) fn decays(self) -> (f64, f64) {
        if self.decoupled { (1.0 - self.lr * self.decay, 0.0) } else { (1.0, self.decay) }
    }

    /// The step size with the first moment's correction, and the root of the second moment's.
    pub(super) fn corrections(self) -> (f64, f64) {
        let corrected = |beta: f64| 1.0 - beta.powf(self.step as f64);
        (self.lr / corrected(self.betas[0]), corrected(self.betas[1]).sqrt())
    }
}

/// A moment: flat on the CPU, where the fused pass updates it in place.
#[derive(Debug)]
enum Moment {
    Flat(Vec<f32>),
    Device(Tensor),
}

#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    settings: Settings,
    moments: Vec<Moment>,
    /// Updates made, counted for Adam's bias correction.
    steps: u64,
}

impl Slot {
    fn fits(var: &Var) -> bool {
        var.device().is_cpu() && var.dtype() == DType::F32 && var.is_contiguous()
    }

    fn state_name(&self, moment: &str) -> String {
        format!("{moment}/{}", self.name)
    }
}

/// The one implementation of [`Optimizer`].
#[derive(Debug)]
pub(super) struct Engine {
    rule: Rule,
    decay: f64,
    slots: Vec<Slot>,
}

impl Engine {
    pub(super) fn new(
        rule: Rule,
        decay: f64,
        variant: Option<LarsVariant>,
        params: &ParamStore,
        groups: &ParamGroups,
    ) -> Result<Self> {
        let mut slots = Vec::new();
        for entry in params.parameters() {
            let mut settings = groups.settings(&entry.name, entry.var.dims());
            if settings.frozen {
                continue;
            }
            if let Some(variant) = variant {
                let adapts = variant.adapts(&entry.name, entry.var.dims());
                settings.trust_ratio &= adapts;
                settings.weight_decay &= adapts;
            }
            let mut moments = Vec::new();
            for moment in rule.moments() {
                let start = rule.start(moment);
                moments.push(if Slot::fits(&entry.var) {
                    Moment::Flat(vec![start; entry.var.elem_count()])
                } else {
                    Moment::Device(Tensor::full(start, entry.var.shape(), entry.var.device())?)
                });
            }
            slots.push(Slot { name: entry.name, var: entry.var, settings, moments, steps: 0 });
        }
        Ok(Self { rule, decay, slots })
    }

    /// Moves all moments into tensors, so that every step takes the plain form.
    #[cfg(test)]
    pub(super) fn into_plain(mut self) -> Result<Self> {
        for slot in &mut self.slots {
            for moment in &mut slot.moments {
                if let Moment::Flat(values) = moment {
                    let tensor = Tensor::from_slice(values, slot.var.shape(), &Device::Cpu)?;
                    *moment = Moment::Device(tensor);
                }
            }
        }
        Ok(self)
    }
}

fn update(slot: &mut Slot, gradient: &Tensor, rule: Rule, decay: f64, lr: f64) -> Result<()> {
    let gradient = gradient.detach().to_dtype(DType::F32)?.contiguous()?;
    let parameter = slot.var.as_tensor();
    let decay = if slot.settings.weight_decay { decay } else { 0.0 };
    let lr = slot.settings.lr.apply(lr);
    slot.steps += 1;
    match rule {
        Rule::Momentum { momentum, nesterov, trust } => {
            let rate_inside = trust.is_some_and(|trust| trust.rate_inside);
            let trust = trust.filter(|_| slot.settings.trust_ratio);
            let update = MomentumUpdate { lr, decay, momentum, nesterov, rate_inside, trust };
            match slot.moments.as_mut_slice() {
                [Moment::Flat(v)] => fused::momentum(parameter, &gradient, Some(v), update),
                [Moment::Device(v)] => plain::momentum(&slot.var, &gradient, Some(v), update),
                _ if Slot::fits(&slot.var) => fused::momentum(parameter, &gradient, None, update),
                _ => plain::momentum(&slot.var, &gradient, None, update),
            }
        }
        Rule::Adam { betas, eps, decoupled } => {
            let update = AdamUpdate { lr, decay, betas, eps, decoupled, step: slot.steps };
            match slot.moments.as_mut_slice() {
                [Moment::Flat(m), Moment::Flat(v)] => fused::adam(parameter, &gradient, (m, v), update),
                [Moment::Device(m), Moment::Device(v)] => plain::adam(&slot.var, &gradient, (m, v), update),
                _ => Err(Error::data(slot.name.as_str(), "the optimiser holds no moments for it")),
            }
        }
        Rule::RmsProp { alpha, momentum, eps, variant } => {
            let update = RmsPropUpdate { lr, decay, alpha, momentum, eps, variant };
            match slot.moments.as_mut_slice() {
                [Moment::Flat(v)] => rmsprop::fused(parameter, &gradient, v, None, update),
                [Moment::Flat(v), Moment::Flat(b)] => {
                    rmsprop::fused(parameter, &gradient, v, Some(b), update)
                }
                [Moment::Device(v)] => rmsprop::plain(&slot.var, &gradient, v, None, update),
                [Moment::Device(v), Moment::Device(b)] => {
                    rmsprop::plain(&slot.var, &gradient, v, Some(b), update)
                }
                _ => Err(Error::data(slot.name.as_str(), "the optimiser holds no moments for it")),
            }
        }
    }
}

impl Optimizer for Engine {
    fn step(&mut self, gradients: &Gradients, lr: f64) -> Result<()> {
        let by_name: HashMap<&str, &Tensor> = gradients.iter().collect();
        // All shapes first: on an error nothing has changed.
        for slot in &self.slots {
            match by_name.get(slot.name.as_str()) {
                Some(gradient) if gradient.dims() != slot.var.dims() => {
                    let expected = format!("{:?} for the gradient of `{}`", slot.var.dims(), slot.name);
                    return Err(Error::shape("optimiser step", expected, gradient.dims()));
                }
                _ => {}
            }
        }
        for slot in &mut self.slots {
            if let Some(gradient) = by_name.get(slot.name.as_str()) {
                update(slot, gradient, self.rule, self.decay, lr)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for slot in &self.slots {
            for (name, moment) in self.rule.moments().iter().zip(&slot.moments) {
                let tensor = match moment {
                    Moment::Flat(values) => Tensor::from_slice(values, slot.var.shape(), &Device::Cpu)?,
                    Moment::Device(tensor) => tensor.to_device(&Device::Cpu)?.copy()?,
                };
                state.push((slot.state_name(name), tensor));
            }
            if matches!(self.rule, Rule::Adam { .. }) {
                state.push((slot.state_name("step"), Tensor::new(slot.steps as i64, &Device::Cpu)?));
            }
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let counts = matches!(self.rule, Rule::Adam { .. });
        let (mut missing, mut mismatched) = (Vec::new(), Vec::new());
        let mut known = std::collections::HashSet::new();
        for slot in &self.slots {
            let moments = self.rule.moments().iter().map(|moment| (*moment, slot.var.dims()));
            for (name, shape) in moments.chain(counts.then_some(("step", &[][..]))) {
                let name = slot.state_name(name);
                match state.get(&name) {
                    None => missing.push(name.clone()),
                    Some(t) if t.dims() != shape => {
                        mismatched.push(format!("{name}: expected {shape:?}, got {:?}", t.dims()));
                    }
                    Some(_) => {}
                }
                known.insert(name);
            }
        }
        let mut unexpected: Vec<String> =
            state.keys().filter(|name| !known.contains(*name)).cloned().collect();
        unexpected.sort();
        if !(missing.is_empty() && unexpected.is_empty() && mismatched.is_empty()) {
            return Err(Error::Weights { path: "optimiser state".into(), missing, unexpected, mismatched });
        }
        // Everything is read before anything is changed.
        let mut loaded = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let mut moments = Vec::new();
            for (name, moment) in self.rule.moments().iter().zip(&slot.moments) {
                let Some(tensor) = state.get(&slot.state_name(name)) else { continue };
                let tensor = tensor.detach().to_dtype(DType::F32)?;
                moments.push(match moment {
                    Moment::Flat(_) => Moment::Flat(tensor.flatten_all()?.to_vec1()?),
                    Moment::Device(_) => Moment::Device(tensor.to_device(slot.var.device())?.copy()?),
                });
            }
            let steps = match state.get(&slot.state_name("step")) {
                Some(steps) if counts => steps.to_dtype(DType::I64)?.to_scalar::<i64>()?,
                _ => 0,
            };
            loaded.push((moments, u64::try_from(steps).unwrap_or(0)));
        }
        for (slot, (moments, steps)) in self.slots.iter_mut().zip(loaded) {
            (slot.moments, slot.steps) = (moments, steps);
        }
        Ok(())
    }

    fn set_weight_decay(&mut self, weight_decay: f64) -> Result<()> {
        check_decay("optim", weight_decay)?;
        self.decay = weight_decay;
        Ok(())
    }
}
