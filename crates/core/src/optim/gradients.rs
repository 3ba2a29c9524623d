//! Gradients by parameter name.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::Result;
use crate::dist::Comm;
use crate::nn::ParamStore;

/// The gradients of one step, in the order of the store's parameters. Parameters without a gradient are absent.
#[derive(Debug, Clone)]
pub struct Gradients {
    by_name: Vec<(String, Tensor)>,
}

impl Gradients {
    /// Takes the gradients of the store's parameters out of a backward pass. They are cut from the graph: a gradient
    /// may otherwise hold the whole forward pass in memory.
    pub fn new(params: &ParamStore, mut grads: GradStore) -> Self {
        let by_name = params
            .parameters()
            .into_iter()
            .filter_map(|entry| grads.remove(entry.var.as_tensor()).map(|g| (entry.name, g.detach())))
            .collect();
        Self { by_name }
    }

    /// From names and tensors.
    pub fn from_named(by_name: Vec<(String, Tensor)>) -> Self {
        Self { by_name }
    }

    /// The gradient of a parameter.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.by_name.iter().find(|(n, _)| n == name).map(|(_, g)| g)
    }

    /// All names and gradients.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.by_name.iter().map(|(n, g)| (n.as_str(), g))
    }

    /// The mean over ranks; see [`crate::dist`] for why it is the mean.
    ///
    /// # Errors
    /// A rank that is gone or brings another shape.
    pub fn average(self, comm: &Comm) -> Result<Self> {
        if comm.size() == 1 {
            return Ok(self);
        }
        let scale = 1.0 / comm.size() as f64;
        let mut by_name = Vec::with_capacity(self.by_name.len());
        for (name, gradient) in self.by_name {
            by_name.push((name, (comm.all_reduce_sum(&gradient)? * scale)?));
        }
        Ok(Self { by_name })
    }

    /// The l2 norm over all gradients. Not finite as soon as one element is not.
    ///
    /// # Errors
    /// A tensor that cannot be read back from its device.
    pub fn norm(&self) -> Result<f64> {
        let mut square = 0f64;
        for (_, gradient) in &self.by_name {
            square += f64::from(gradient.sqr()?.flatten_all()?.sum(0)?.to_scalar::<f32>()?);
        }
        Ok(square.sqrt())
    }
}
