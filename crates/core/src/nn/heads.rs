//! Multi-layer perceptrons: projection and prediction heads.

use candle_core::Tensor;

use super::{BatchNorm, BatchNormConfig, Builder, Init, Linear, MapModule, Mode, Module};
use crate::kernels::{FeatureMap, gelu, relu};
use crate::{Error, Result};

/// What follows a layer of an [`Mlp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// ReLU.
    Relu,
    /// The exact GELU.
    Gelu,
}

/// One layer of an [`Mlp`]: linear, then batch norm, then the activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpLayer {
    /// Width of the output.
    pub width: usize,
    /// How the linear weight begins.
    pub weight: Init,
    /// How the linear bias begins; none for a layer without.
    pub bias: Option<Init>,
    /// The batch norm behind it, if any.
    pub norm: Option<BatchNormConfig>,
    /// What comes last.
    pub activation: Activation,
}

impl MlpLayer {
    /// Linear with PyTorch's initialiser and bias, and nothing behind it.
    pub fn linear(width: usize) -> Self {
        let torch = Init::TorchDefault;
        Self { width, weight: torch, bias: Some(torch), norm: None, activation: Activation::None }
    }

    /// The same without bias.
    #[must_use]
    pub fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// The same with batch norm behind it.
    #[must_use]
    pub fn norm(self, norm: BatchNormConfig) -> Self {
        Self { norm: Some(norm), ..self }
    }

    /// The same with a ReLU at the end.
    #[must_use]
    pub fn relu(self) -> Self {
        Self { activation: Activation::Relu, ..self }
    }
}

#[derive(Debug)]
struct Layer {
    linear: Linear,
    norm: Option<BatchNorm>,
    activation: Activation,
}

/// A stack of linear layers, `[N, I]` to `[N, O]`.
///
/// Names are those of PyTorch's `nn.Sequential` with one place for each linear, batch norm and activation in order: SimCLR's
/// head has `0.weight`, `1.weight`, `1.bias`, `3.weight`, `4.weight` (and `running_*`), MoCo v2's `0.{weight,bias}`,
/// `2.{weight,bias}`.
#[derive(Debug)]
pub struct Mlp {
    layers: Vec<Layer>,
    width: usize,
}

impl Mlp {
    /// Layers on features of width `inputs`.
    ///
    /// # Errors
    /// No layer at all; a name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, layers: &[MlpLayer]) -> Result<Self> {
        let Some(last) = layers.last() else {
            return Err(Error::config("head.layers", "at least one layer is needed"));
        };
        let (mut width, mut place) = (inputs, 0usize);
        let mut built = Vec::with_capacity(layers.len());
        for layer in layers {
            let linear = Linear::new(&b.pp(place), width, layer.width, layer.weight, layer.bias)?;
            place += 1;
            let norm = match layer.norm {
                None => None,
                Some(config) => {
                    let norm = BatchNorm::new(&b.pp(place), layer.width, config)?;
                    place += 1;
                    Some(norm)
                }
            };
            place += usize::from(layer.activation != Activation::None);
            width = layer.width;
            built.push(Layer { linear, norm, activation: layer.activation });
        }
        Ok(Self { layers: built, width: last.width })
    }

    /// The width of the output.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The outputs of all layers in order; the last is the head's (SimCLR v2 fine-tunes from the first).
    ///
    /// # Errors
    /// As [`Module::forward`].
    pub fn forward_all(&self, x: &Tensor, mode: &Mode) -> Result<Vec<Tensor>> {
        self.maps(x, mode)?.iter().map(FeatureMap::rows).collect()
    }

    fn maps(&self, x: &Tensor, mode: &Mode) -> Result<Vec<FeatureMap>> {
        let input = FeatureMap::from_rows(x)?;
        let mut outputs: Vec<FeatureMap> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let x = layer.linear.forward_rows(outputs.last().unwrap_or(&input), mode)?;
            outputs.push(match (&layer.norm, layer.activation) {
                (Some(norm), Activation::Relu) => norm.forward_relu(&x, None, mode)?,
                (Some(norm), Activation::Gelu) => gelu(&norm.forward_map(&x, mode)?)?,
                (Some(norm), Activation::None) => norm.forward_map(&x, mode)?,
                (None, Activation::Relu) => relu(&x)?,
                (None, Activation::Gelu) => gelu(&x)?,
                (None, Activation::None) => x,
            });
        }
        Ok(outputs)
    }
}

impl Module for Mlp {
    fn forward(&self, x: &Tensor, mode: &Mode) -> Result<Tensor> {
        match self.maps(x, mode)?.last() {
            Some(last) => last.rows(),
            None => Err(Error::config("head.layers", "at least one layer is needed")),
        }
    }
}
