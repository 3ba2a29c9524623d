//! The networks: encoder g_enc, context network g_ar and the predictors.

use candle_core::Tensor;
use contrastive_core::kernels::FeatureMap;
use contrastive_core::nn::{BACKBONE, Builder, Carried, Conv1d, Conv1dConfig, Gru, Lstm, Mode, Recurrent};
use contrastive_core::{Error, Result};

use super::config::{CellKind, ContextConfig, EncoderConfig, Norm, SpeechConfig};
use super::norm::NormRelu;
use crate::predictor::Predictor;
use crate::weights::{CONTEXT, ENCODER, PREDICTOR};

/// One layer of the encoder.
#[derive(Debug)]
pub(super) struct Layer {
    conv: Conv1d,
    norm: NormRelu,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Layer {
    /// The layer with these zeros on the sides of `[N, C, T]`.
    pub(super) fn forward(&self, x: &FeatureMap, padding: [usize; 2], mode: &Mode) -> Result<FeatureMap> {
        let x = self.conv.forward_padded(x, padding, mode)?;
        self.norm.forward(&x, mode)
    }
}

/// g_enc: `[N, 1, S]` to `[N, T, C]`.
#[derive(Debug)]
pub struct SpeechEncoder {
    pub(super) layers: Vec<Layer>,
    config: EncoderConfig,
}

impl SpeechEncoder {
    /// Fresh convolutions `conv{i}.*` (and `norm{i}.*`), PyTorch's initial weights.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, config: &EncoderConfig) -> Result<Self> {
        let layer = |i: usize| -> Result<Layer> {
            let (kernel, stride, padding) = (config.kernels[i], config.strides[i], config.paddings[i]);
            let inputs = if i == 0 { 1 } else { config.channels };
            let torch = Conv1dConfig::torch(kernel, stride, padding);
            let settings = Conv1dConfig { bias: torch.bias.filter(|_| config.norm != Norm::Batch), ..torch };
            Ok(Layer {
                conv: Conv1d::new(&b.pp(format!("conv{i}")), inputs, config.channels, settings)?,
                norm: NormRelu::new(&b.pp(format!("norm{i}")), config.norm, config.channels)?,
                kernel,
                stride,
                padding,
            })
        };
        Ok(Self {
            layers: (0..config.kernels.len()).map(layer).collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// The settings.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// One vector for each frame of wave forms `[N, 1, S]`: a map `[N, T, C]` as [`FeatureMap::from_rows`] makes them.
    ///
    /// # Errors
    /// Another shape, wave forms too short for one frame.
    pub fn forward(&self, x: &Tensor, mode: &Mode) -> Result<FeatureMap> {
        let &[_, 1, samples] = x.dims() else {
            return Err(Error::shape("speech encoder", "[N, 1, S]", x.dims()));
        };
        if self.config.frames(samples) == 0 {
            return Err(Error::shape("speech encoder", "samples enough for a frame", x.dims()));
        }
        let mut map = FeatureMap::new(x)?;
        for layer in &self.layers {
            map = layer.forward(&map, [layer.padding; 2], mode)?;
        }
        map.sequence()
    }
}

/// g_ar: `[N, T, C]` to `[N, T, H]`, step by step.
#[derive(Debug)]
pub struct Context {
    layers: Vec<Box<dyn Recurrent>>,
}

impl Context {
    /// Fresh layers `weight_ih_l{i}` and so on.
    ///
    /// # Errors
    /// A name that exists with another shape.
    pub fn new(b: &Builder, inputs: usize, config: &ContextConfig) -> Result<Self> {
        let layer = |i: usize| -> Result<Box<dyn Recurrent>> {
            let inputs = if i == 0 { inputs } else { config.width };
            Ok(match config.cell {
                CellKind::Gru => Box::new(Gru::new(b, inputs, config.width, i)?),
                CellKind::Lstm => Box::new(Lstm::new(b, inputs, config.width, i)?),
            })
        };
        Ok(Self { layers: (0..config.layers).map(layer).collect::<Result<_>>()? })
    }

    /// The hidden states of the last layer and the states of all layers behind the last step; `states` are those behind an
    /// earlier part, zeros where there are none.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(
        &self,
        x: &FeatureMap,
        states: Option<&[Tensor]>,
        mode: &Mode,
    ) -> Result<(FeatureMap, Vec<Tensor>)> {
        let mut map = x.clone();
        let mut last = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let carried = Carried { state: states.and_then(|states| states.get(i)), resets: None };
            let (y, state) = layer.run(&map, carried, mode)?;
            map = y;
            last.push(state);
        }
        Ok((map, last))
    }
}

/// What the networks say of a batch.
#[derive(Debug, Clone)]
pub struct Codes {
    /// z: one vector for each frame, `[N, T, C]`.
    pub frames: Tensor,
    /// c: what has been heard up to each frame, `[N, T, H]`.
    pub contexts: Tensor,
}

/// Encoder, context network and predictors.
#[derive(Debug)]
pub struct SpeechModel {
    /// g_enc.
    pub encoder: SpeechEncoder,
    /// g_ar.
    pub context: Context,
    /// W_1 … W_K.
    pub predictor: Predictor,
    width: usize,
}

impl SpeechModel {
    /// Fresh networks under `backbone.encoder.*`, `backbone.context.*` and `predictor.*`.
    ///
    /// # Errors
    /// Settings that no network has.
    pub fn new(b: &Builder, config: &SpeechConfig) -> Result<Self> {
        config.check_networks("method")?;
        let backbone = b.pp(BACKBONE);
        let (channels, width) = (config.encoder.channels, config.context.width);
        Ok(Self {
            encoder: SpeechEncoder::new(&backbone.pp(ENCODER), &config.encoder)?,
            context: Context::new(&backbone.pp(CONTEXT), channels, &config.context)?,
            predictor: Predictor::new(&b.pp(PREDICTOR), width, channels, config.objective.steps)?,
            width,
        })
    }

    /// H, the width of contexts.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Frames and contexts of wave forms `[N, 1, S]`.
    ///
    /// # Errors
    /// As [`SpeechEncoder::forward`].
    pub fn codes(&self, x: &Tensor, mode: &Mode) -> Result<Codes> {
        let frames = self.encoder.forward(x, mode)?;
        let (contexts, _) = self.context.forward(&frames, None, mode)?;
        Ok(Codes { frames: frames.rows()?, contexts: contexts.rows()? })
    }
}
