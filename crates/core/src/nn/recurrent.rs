//! Recurrent layers: one layer, one direction. Parameters have PyTorch's names and shapes.

use candle_core::Tensor;

use super::{Builder, Init, Mode};
use crate::Result;
use crate::kernels::{FeatureMap, gru, linear, lstm};

/// What a sequence brings along. The default is nothing: it begins with zeros and goes on to its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Carried<'a> {
    /// The states that an earlier part left, as [`Recurrent::run`] gave them. Gradients flow to them if they are tracked.
    pub state: Option<&'a Tensor>,
    /// Whether the states become zero before step `t` of sequence `i`, at `i T + t` (a new episode).
    pub resets: Option<&'a [bool]>,
}

/// A recurrent layer.
pub trait Recurrent: Send + Sync + std::fmt::Debug {
    /// The width H of the hidden state.
    fn hidden(&self) -> usize;

    /// The width S of all states together.
    fn states(&self) -> usize;

    /// The hidden states `[N, T, H]` of sequences `[N, T, I]` (maps made by [`FeatureMap::from_rows`]) and, cut from the
    /// graph, the states behind the last step `[N, S]`.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for a width, states or resets that do not fit.
    fn run(&self, x: &FeatureMap, carried: Carried<'_>, mode: &Mode) -> Result<(FeatureMap, Tensor)>;
}

/// The parameters that all cells have: `weight_ih_l{i}` `[G H, I]`, `weight_hh_l{i}` `[G H, H]`, `bias_ih_l{i}` and
/// `bias_hh_l{i}` `[G H]`, uniform in `1 / sqrt(H)`.
#[derive(Debug)]
struct Weights {
    input: [Tensor; 2],
    hidden: [Tensor; 2],
    width: usize,
}

impl Weights {
    fn new(b: &Builder, inputs: usize, width: usize, gates: usize, layer: usize) -> Result<Self> {
        let init = Init::Uniform(1.0 / (width.max(1) as f64).sqrt());
        let rows = gates * width;
        let weight =
            |part: &str, columns: usize| b.param(&format!("weight_{part}_l{layer}"), (rows, columns), init);
        let bias = |part: &str| b.param(&format!("bias_{part}_l{layer}"), rows, init);
        let (weight_ih, weight_hh) = (weight("ih", inputs)?, weight("hh", width)?);
        let (bias_ih, bias_hh) = (bias("ih")?, bias("hh")?);
        Ok(Self { input: [weight_ih, bias_ih], hidden: [weight_hh, bias_hh], width })
    }

    /// The input's part of the gates of every step.
    fn gates(&self, x: &FeatureMap, mode: &Mode) -> Result<FeatureMap> {
        let [weight, bias] = &self.input;
        linear(x, &mode.weight(weight), Some(&mode.weight(bias)))
    }

    fn hidden(&self, mode: &Mode) -> [Tensor; 2] {
        self.hidden.each_ref().map(|parameter| mode.weight(parameter))
    }
}

/// Gated recurrent unit; see [`gru`](crate::kernels::gru) for the equations.
#[derive(Debug)]
pub struct Gru(Weights);

impl Gru {
    /// A layer from `inputs` to `width` features; `layer` is its number in a stack, for the names (`weight_ih_l0`).
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, width: usize, layer: usize) -> Result<Self> {
        Ok(Self(Weights::new(b, inputs, width, 3, layer)?))
    }
}

impl Recurrent for Gru {
    fn hidden(&self) -> usize {
        self.0.width
    }

    fn states(&self) -> usize {
        self.0.width
    }

    fn run(&self, x: &FeatureMap, carried: Carried<'_>, mode: &Mode) -> Result<(FeatureMap, Tensor)> {
        let [weight, bias] = self.0.hidden(mode);
        gru(&self.0.gates(x, mode)?, &weight, &bias, carried.state, carried.resets)
    }
}

/// Long short-term memory; see [`lstm`](crate::kernels::lstm) for the equations. The states are the hidden one and the cell's, side by side.
#[derive(Debug)]
pub struct Lstm(Weights);

impl Lstm {
    /// A layer from `inputs` to `width` features; `layer` is its number in a stack, for the names (`weight_ih_l0`).
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, width: usize, layer: usize) -> Result<Self> {
        Ok(Self(Weights::new(b, inputs, width, 4, layer)?))
    }
}

impl Recurrent for Lstm {
    fn hidden(&self) -> usize {
        self.0.width
    }

    fn states(&self) -> usize {
        2 * self.0.width
    }

    fn run(&self, x: &FeatureMap, carried: Carried<'_>, mode: &Mode) -> Result<(FeatureMap, Tensor)> {
        let [weight, bias] = self.0.hidden(mode);
        lstm(&self.0.gates(x, mode)?, &weight, &bias, carried.state, carried.resets)
    }
}

#[cfg(test)]
mod tests;
