//! One linear map for every step into the future.

use candle_core::Tensor;
use contrastive_core::nn::{Builder, Init, Linear, Mode, Module};
use contrastive_core::{Error, Result};

/// `W_1 … W_K`, each a linear map without bias from contexts to targets: `W_k c_t` predicts `z_{t+k}`.
///
/// `W_k` is named `{k - 1}.weight`, `[D, H]`.
#[derive(Debug)]
pub struct Predictor {
    steps: Vec<Linear>,
}

impl Predictor {
    /// `steps` maps from width `context` to width `target`, each uniform in `1 / sqrt(context)`.
    ///
    /// # Errors
    /// No step; a name that exists with another shape.
    pub fn new(b: &Builder, context: usize, target: usize, steps: usize) -> Result<Self> {
        if steps == 0 {
            return Err(Error::config("steps", "must be at least 1"));
        }
        let map = |k: usize| Linear::new(&b.pp(k), context, target, Init::TorchDefault, None);
        Ok(Self { steps: (0..steps).map(map).collect::<Result<_>>()? })
    }

    /// K.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// `W_k c` for contexts `[M, H]`: `[M, D]`. `k` counts from 1.
    ///
    /// # Errors
    /// A step that there is none of, contexts of another width.
    pub fn predict(&self, k: usize, contexts: &Tensor, mode: &Mode) -> Result<Tensor> {
        match k.checked_sub(1).and_then(|i| self.steps.get(i)) {
            Some(map) => map.forward(contexts, mode),
            None => Err(Error::data("CPC predictor", format!("no step {k} of {}", self.steps.len()))),
        }
    }
}
